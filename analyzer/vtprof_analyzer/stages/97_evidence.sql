-- One row: one request that did not fail, with the columns of `requests`: what rules may show as evidence.
-- It has a schema of its own, so that a rule finds it under the name `requests`.
CREATE SCHEMA evidence;
CREATE VIEW evidence.requests AS SELECT * FROM main.requests WHERE coalesce(status, 'ok') = 'ok';
