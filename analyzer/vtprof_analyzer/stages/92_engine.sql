-- One row: what the engines said of themselves on their metrics pages while the agent read these; no row without a reading.
-- engine_name, engine_version  of most readings
-- ranks              engines, or data-parallel ranks of one; readings: of all pages
-- seconds            from the first reading to the last; since_start: whether every total was first told as zero, so that
--                    its growth is all that the engine did
-- kv_used_ratio_p50, kv_used_ratio_max  share of the KV cache held by requests being served, fullest rank of each reading
-- running_*, waiting_*  requests, summed over ranks of one reading, median and most
-- preemptions, prompt_tokens, output_tokens  growth from first to last reading; an engine that was started again counts
--                    from zero again
-- prefix_hit_rate    tokens found in the prefix cache / tokens looked up (vLLM) or prompt tokens (SGLang)
-- mm_cache_hit_rate  media items found in vLLM's cache of preprocessed items / items looked up
-- encoder_cache_hit_rate  the same of the cache of encoder outputs of SGLang's separate encoder
-- ttft_ms_mean, queue_ms_mean  arrival to first token, and time in the waiting queue, by the engine's clock [ms]
CREATE TABLE engine_said AS
WITH states AS (
    SELECT
        ts_ns,
        -- At the start of an engine the agent tells that its totals are zero: that is no reading of its page.
        bool_or(name IN ('vtprof.engine.kv_used_ratio', 'vtprof.engine.running', 'vtprof.engine.waiting')) AS has_state,
        max(value) FILTER (name = 'vtprof.engine.kv_used_ratio') AS kv_used_ratio,
        sum(value) FILTER (name = 'vtprof.engine.running') AS running,
        sum(value) FILTER (name = 'vtprof.engine.waiting') AS waiting
    FROM engine_samples GROUP BY ts_ns
), beginnings AS (
    SELECT bool_and(first_value = 0) AS since_start FROM (
        SELECT arg_min(value, (ts_ns, value)) AS first_value FROM engine_samples
        WHERE name NOT IN ('vtprof.engine.kv_used_ratio', 'vtprof.engine.running', 'vtprof.engine.waiting')
        GROUP BY instance, name
    )
), growths AS (
    SELECT
        max(growth) FILTER (name = 'vtprof.engine.preemptions') AS preemptions,
        max(growth) FILTER (name = 'vtprof.engine.prompt_tokens') AS prompt_tokens,
        max(growth) FILTER (name = 'vtprof.engine.output_tokens') AS output_tokens,
        max(growth) FILTER (name = 'vtprof.engine.ttft.seconds') AS ttft_s,
        max(growth) FILTER (name = 'vtprof.engine.ttft.requests') AS ttft_requests,
        max(growth) FILTER (name = 'vtprof.engine.queue.seconds') AS queue_s,
        max(growth) FILTER (name = 'vtprof.engine.queue.requests') AS queue_requests
    FROM engine_growth
), rates AS (
    SELECT max(ratio) FILTER (cache = 'prefix') AS prefix_hit_rate,
           max(ratio) FILTER (cache = 'processor') AS mm_cache_hit_rate,
           max(ratio) FILTER (cache = 'encoder') AS encoder_cache_hit_rate
    FROM caches WHERE source = 'engine_page'
), whose AS (
    SELECT mode(engine_name) AS engine_name, mode(engine_version) AS engine_version,
           count(DISTINCT instance) AS ranks
    FROM engine_samples
), summed AS (
    SELECT coalesce(nullif(count(*) FILTER (has_state), 0), count(*)) AS readings,
           (coalesce(max(ts_ns) FILTER (has_state), max(ts_ns)) - coalesce(min(ts_ns) FILTER (has_state), min(ts_ns)))
               / 1e9 AS seconds,
           median(kv_used_ratio) AS kv_used_ratio_p50, max(kv_used_ratio) AS kv_used_ratio_max,
           median(running) AS running_p50, max(running) AS running_max,
           median(waiting) AS waiting_p50, max(waiting) AS waiting_max
    FROM states
)
SELECT
    whose.*, summed.*, since_start,
    preemptions::BIGINT AS preemptions, prompt_tokens::BIGINT AS prompt_tokens, output_tokens::BIGINT AS output_tokens,
    rates.*,
    1e3 * ttft_s / nullif(ttft_requests, 0) AS ttft_ms_mean,
    1e3 * queue_s / nullif(queue_requests, 0) AS queue_ms_mean
FROM whose, summed, growths, rates, beginnings
WHERE readings > 0;
