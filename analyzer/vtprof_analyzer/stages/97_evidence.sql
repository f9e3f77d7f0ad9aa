-- What rules may show as evidence, in the names of `vtprof_rules/evidence.toml`: views in a schema of their own, so that a rule
-- finds them under those names. Requests that failed are in none of them.
CREATE SCHEMA evidence;

-- One row: one request that did not fail.
CREATE VIEW evidence.requests AS
SELECT r.* EXCLUDE (request_number) REPLACE (f.instance AS service_instance_id, r.kv_bytes::BIGINT AS kv_bytes,
                    r.kv_visual_bytes::BIGINT AS kv_visual_bytes), f.chunks, f.preemptions, f.pixels, f.fetch_ms, f.met
FROM main.requests AS r JOIN main.request_facts AS f USING (request_number)
WHERE f.recorded AND f.ok;

-- One row: one phase of one request that did not fail.
CREATE VIEW evidence.phase_spans AS
SELECT r.trace_id, r.model, f.instance AS service_instance_id, p.phase, p.first_ns AS start_unix_nano, p.duration_ns / 1e6 AS duration_ms,
       p.gpu_time_ns / 1e6 AS gpu_ms, r.n_visual_tokens
FROM main.phases AS p JOIN main.requests AS r USING (request_number) JOIN main.request_facts AS f USING (request_number)
WHERE f.recorded AND f.ok;

-- One row: one engine iteration, or a window of folded ones.
CREATE VIEW evidence.steps AS
SELECT s.trace_id, p.model, p.instance AS service_instance_id, s.start_ns AS start_unix_nano, s.steps AS iterations,
       s.duration_ns / 1e6 AS duration_ms, s.gpu_time_ns / 1e6 AS gpu_ms, s.prefill_tokens, s.prefill_visual_tokens,
       s.decode_requests, s.encode_items, s.running, s.waiting, s.preemptions,
       s.kv_used_tokens / nullif(k.capacity_tokens, 0) AS kv_used_share
FROM main.steps AS s
JOIN (FROM main.fact_processes WHERE scope = 0) AS p USING (resource_id)
JOIN main.kv_sizes AS k USING (resource_id);

-- One row: one image, video or clip whose digest was recorded.
CREATE VIEW evidence.media_items AS
SELECT r.trace_id, r.model, f.instance AS service_instance_id, m.digest, m.seen_before, r.start_unix_nano
FROM main.media_items AS m JOIN main.requests AS r USING (request_number) JOIN main.request_facts AS f USING (request_number)
WHERE f.recorded AND f.ok;

-- One row: one reading of a GPU counter; of an agent's, the process that names the GPU.
CREATE VIEW evidence.gpu_samples AS
SELECT g.hw_id, p.model, coalesce(p.instance, r.service_instance_id, g.resource_id::VARCHAR) AS service_instance_id, g.name,
       g.ts_ns AS ts_unix_nano, g.value
FROM main.gpu_samples AS g
LEFT JOIN main.resources AS r USING (resource_id)
LEFT JOIN (
    SELECT hw_id, CASE WHEN count(DISTINCT model) = 1 THEN max(model) END AS model,
           CASE WHEN count(DISTINCT instance) = 1 THEN max(instance) END AS instance
    FROM (SELECT instance, model, trim(unnest(string_split(hw_ids, ','))) AS hw_id FROM main.fact_processes WHERE scope = 0)
    GROUP BY hw_id
) AS p ON p.hw_id = g.hw_id;
