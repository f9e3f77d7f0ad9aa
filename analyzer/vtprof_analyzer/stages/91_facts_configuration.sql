-- One row: one scope (`fact_scopes`) and its configuration, in the names of `vtprof_rules/facts.toml`.
-- Where the processes of a scope differ, that of the one with most work; what none of them recorded is taken from others only
-- where these agree on it: an engine's worker says what holds for its server.
-- patch_pixels       as in `process_settings`
CREATE TABLE facts_configuration AS
WITH widths AS (
    SELECT k.instance, max(m.weight_dtype) AS weight_dtype, max(m.fp8_peak_ratio) AS fp8_peak_ratio,
           max(m.int8_peak_ratio) AS int8_peak_ratio, max(m.fp4_peak_ratio) AS fp4_peak_ratio
    FROM model_sizes AS m JOIN kv_sizes AS k USING (resource_id)
    GROUP BY k.instance
), told AS (
    -- By the model's config, else by what the engine calls its quantisation; of other methods the width is not known.
    SELECT s.* EXCLUDE (quantization, weights_dtype, step_tokens_limit),
           coalesce(w.weight_dtype, CASE WHEN s.quantization IS NULL THEN s.weights_dtype
                                         WHEN contains(s.quantization, 'fp8') THEN 'fp8'
                                         WHEN starts_with(s.quantization, 'awq') OR starts_with(s.quantization, 'gptq') THEN 'int4' END)
               AS weight_dtype, w.fp8_peak_ratio, w.int8_peak_ratio, w.fp4_peak_ratio
    FROM process_settings AS s LEFT JOIN widths AS w USING (instance)
), common AS (
    SELECT CASE WHEN min(COLUMNS(* EXCLUDE (instance, work))) = max(COLUMNS(* EXCLUDE (instance, work)))
                THEN min(COLUMNS(* EXCLUDE (instance, work))) END
    FROM told
), scoped AS (
    SELECT p.scope, s.* FROM (SELECT DISTINCT instance, scope FROM fact_processes) AS p JOIN told AS s USING (instance)
    UNION ALL BY NAME
    SELECT s.scope, '' AS instance, -1 AS work, c.* FROM (SELECT DISTINCT scope FROM fact_scopes) AS s, common AS c
)
-- `arg_max` passes over NULL: the best that is known.
SELECT scope, arg_max(COLUMNS(* EXCLUDE (scope, instance, work)), (work, instance)) FROM scoped GROUP BY scope;
