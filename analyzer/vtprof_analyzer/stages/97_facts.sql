-- One row: one row of a facts view: every fact that a rule may name (`vtprof_rules/facts.toml`) and some that they are made of.
-- view, subject      as in `fact_scopes`; rows of phase_facts are the whole run's, each about one phase
CREATE TABLE all_facts AS
WITH rows_asked AS (
    SELECT view, subject, scope FROM fact_scopes
    UNION ALL
    SELECT 'phase_facts', phase, 0 FROM facts_phase
)
SELECT a.view, a.subject, i.* EXCLUDE (scope), c.* EXCLUDE (scope), t.* EXCLUDE (scope), k.* EXCLUDE (scope, audio_window_seconds), h.* EXCLUDE (scope),
       r.* EXCLUDE (scope), x.* EXCLUDE (scope), s.* EXCLUDE (scope), m.* EXCLUDE (scope), d.* EXCLUDE (scope),
       o.* EXCLUDE (scope), p.*
FROM rows_asked AS a
JOIN facts_integrity AS i USING (scope)
LEFT JOIN facts_configuration AS c USING (scope) LEFT JOIN facts_time AS t USING (scope) LEFT JOIN facts_tokens AS k USING (scope)
LEFT JOIN facts_caches AS h USING (scope) LEFT JOIN facts_roofline AS r USING (scope)
LEFT JOIN facts_counterfactual AS x USING (scope) LEFT JOIN facts_scheduler AS s USING (scope)
LEFT JOIN facts_memory AS m USING (scope) LEFT JOIN facts_device AS d USING (scope) LEFT JOIN facts_objectives AS o USING (scope)
LEFT JOIN facts_phase AS p ON a.view = 'phase_facts' AND p.phase = a.subject;

CREATE VIEW deployment_facts AS SELECT * EXCLUDE (view) FROM all_facts WHERE view = 'deployment_facts';
CREATE VIEW model_facts AS SELECT * EXCLUDE (view) FROM all_facts WHERE view = 'model_facts' ORDER BY subject;
CREATE VIEW instance_facts AS SELECT * EXCLUDE (view) FROM all_facts WHERE view = 'instance_facts' ORDER BY subject;
CREATE VIEW phase_facts AS SELECT * EXCLUDE (view) FROM all_facts WHERE view = 'phase_facts' ORDER BY subject;
