-- One row: one of the slowest requests, at most `settings.slow_requests`: the phase that was longer than normal, and why.
-- Slow is from `settings.slow_times_normal` times the median TTFT of the visual stratum on, or the median TPOT of all.
-- request_number     row of `requests`; rank: 1 has the most excess over normal, all phases together
-- visual_stratum     its stratum; total_excess_ms: that excess [ms]; slow: requests that were slow, of those
--                    with a first token in a stratum of ten or more
-- phase              the phase with the largest part of the excess; phase_ms, normal_ms, excess_ms: its time, the median of
--                    the stratum and the difference [ms]. decode: normal is the median TPOT x the tokens after the first
-- cause              queue: the largest of `queue_blame`; preprocess: the largest of fetch, decode, processor, waiting; decode:
--                    preemption; encode, prefill, decode: throttled_power or throttled_thermal (half of the time or more);
--                    what of image_encode, image_prefill, text_prefill, decode_batch (others') and own_chunks took most above
--                    its median in the stratum; own_size in place of own_chunks, or where nothing tells, if it has at least so
--                    many times the tokens of its stratum's median; unexplained where nothing tells
-- evidence           one sentence with the numbers, and which requests ran beside it
CREATE TABLE slow_requests AS
WITH normal AS (
    SELECT visual_stratum, count(*) AS requests, median(ttft_ms) AS ttft_ms, median(preprocess_ms) AS preprocess_ms,
           median(queue_ms) AS queue_ms, median(encode_ms) AS encode_ms, median(transfer_ms) AS transfer_ms,
           median(prefill_ms) AS prefill_ms, median(unexplained_ms) AS unexplained_ms,
           median(n_prompt_tokens) AS prompt_tokens, median(n_visual_tokens) AS visual_tokens
    FROM requests
    WHERE ttft_ms IS NOT NULL AND visual_stratum IS NOT NULL
    GROUP BY visual_stratum HAVING count(*) >= 10
), normal_decode AS (
    SELECT median(tpot_ms) AS tpot_ms FROM requests
), judged AS (
    SELECT r.request_number, r.trace_id, r.span_id, r.visual_stratum, r.start_unix_nano AS arrival_ns,
           r.start_unix_nano + (r.ttft_ms * 1e6)::BIGINT AS first_token_ns, r.end_unix_nano AS end_ns,
           CASE WHEN r.tpot_ms > 0 THEN (r.end_unix_nano - first_token_ns) / 1e6 END AS decode_ms,
           d.tpot_ms / r.tpot_ms * decode_ms AS decode_normal_ms,
           r.n_prompt_tokens >= settings.slow_times_normal * n.prompt_tokens AS long,
           r.n_visual_tokens >= settings.slow_times_normal * n.visual_tokens AND n.visual_tokens > 0 AS visual,
           long OR visual AS large, r.n_prompt_tokens, r.n_visual_tokens, n.prompt_tokens AS normal_tokens,
           n.visual_tokens AS normal_visual_tokens,
           r.ttft_ms >= settings.slow_times_normal * n.ttft_ms AND r.ttft_ms > n.ttft_ms AS late,
           coalesce(r.tpot_ms >= settings.slow_times_normal * d.tpot_ms AND r.tpot_ms > d.tpot_ms, false) AS halting,
           CASE WHEN late THEN r.ttft_ms - n.ttft_ms ELSE 0 END
               + CASE WHEN halting THEN decode_ms - decode_normal_ms ELSE 0 END AS total_excess_ms,
           r.preprocess_ms, r.queue_ms, r.encode_ms, r.transfer_ms, r.prefill_ms, r.unexplained_ms,
           n.preprocess_ms AS preprocess_normal, n.queue_ms AS queue_normal, n.encode_ms AS encode_normal,
           n.transfer_ms AS transfer_normal, n.prefill_ms AS prefill_normal, n.unexplained_ms AS unexplained_normal
    FROM requests AS r JOIN normal AS n USING (visual_stratum), normal_decode AS d, settings
    WHERE r.ttft_ms IS NOT NULL
), slowest AS (
    SELECT *, row_number() OVER (ORDER BY total_excess_ms DESC, request_number) AS rank, count(*) OVER () AS slow_requests,
           -- The phase with the largest excess, of those of the time that was slow; what is not known is none.
           list_reduce(list_concat(
               CASE WHEN late THEN [
                   {phase: 'preprocess', phase_ms: preprocess_ms, normal_ms: preprocess_normal},
                   {phase: 'queue', phase_ms: queue_ms, normal_ms: queue_normal},
                   {phase: 'encode', phase_ms: encode_ms, normal_ms: encode_normal},
                   {phase: 'transfer', phase_ms: transfer_ms, normal_ms: transfer_normal},
                   {phase: 'prefill', phase_ms: prefill_ms, normal_ms: prefill_normal},
                   {phase: 'unexplained', phase_ms: unexplained_ms, normal_ms: unexplained_normal}
               ] END,
               CASE WHEN halting THEN [{phase: 'decode', phase_ms: decode_ms, normal_ms: decode_normal_ms}] END
           ), lambda a, b: CASE WHEN coalesce(b.phase_ms - b.normal_ms, 0) > coalesce(a.phase_ms - a.normal_ms, 0)
                                THEN b ELSE a END) AS part
    FROM judged WHERE late OR halting
    QUALIFY rank <= (SELECT slow_requests FROM settings)
), placed AS (
    SELECT s.*, part.phase AS phase, part.phase_ms AS phase_ms, part.normal_ms AS normal_ms, k.instance, h.hw_ids,
           CASE WHEN part.phase = 'decode' THEN s.first_token_ns ELSE coalesce(p.first_ns, s.arrival_ns) END AS begin_ns,
           CASE WHEN part.phase = 'decode' THEN s.end_ns ELSE least(coalesce(p.last_ns, s.first_token_ns), s.first_token_ns) END
               AS until_ns
    FROM slowest AS s
    JOIN request_base AS q USING (request_number)
    JOIN kv_sizes AS k USING (resource_id)
    LEFT JOIN phases AS p ON p.request_number = s.request_number AND p.phase = part.phase
    LEFT JOIN (
        SELECT k.instance, list(DISTINCT r.hw_id) AS hw_ids
        FROM kv_sizes AS k JOIN resources AS r USING (resource_id) WHERE r.hw_id IS NOT NULL GROUP BY k.instance
    ) AS h ON h.instance = k.instance
), beside AS (
    -- A join by range, of at most `slow_requests` rows.
    SELECT s.request_number, p.request_number AS other_key, sum(least(p.last_ns, s.until_ns) - greatest(p.first_ns, s.begin_ns)) AS shared_ns
    FROM placed AS s JOIN phases AS p ON p.first_ns < s.until_ns AND p.last_ns > s.begin_ns
    WHERE p.phase IN ('encode', 'prefill') AND p.request_number <> s.request_number
    GROUP BY s.request_number, p.request_number
), neighbours AS (
    SELECT b.request_number, count(*) AS others, count(*) FILTER (q.visual_tokens > 0) AS visual_others,
           list(coalesce(q.request_id, q.span_id) || coalesce(' (' || format('{:,}', q.visual_tokens) || ' visual tokens)', '')
                ORDER BY coalesce(q.visual_tokens, 0) DESC, b.shared_ns DESC, b.other_key)[:3] AS largest
    FROM beside AS b
    JOIN request_base AS q ON q.request_number = b.other_key
    JOIN kv_sizes AS k USING (resource_id)
    JOIN placed AS s ON s.request_number = b.request_number AND s.instance = k.instance
    GROUP BY b.request_number
), preempted AS (
    SELECT s.request_number, sum(c.decode_preemptions) AS times
    FROM placed AS s JOIN spans AS c ON c.trace_id = s.trace_id AND c.parent_span_id = s.span_id
    WHERE c.decode_preemptions > 0
    GROUP BY s.request_number
), readings AS (
    SELECT hw_id, name, ts_ns, value FROM gpu_samples
    WHERE name IN ('vtprof.gpu.throttle_power_ns', 'vtprof.gpu.throttle_thermal_ns')
), windows AS (
    SELECT request_number, begin_ns, until_ns, name, unnest(hw_ids) AS hw_id
    FROM placed, (SELECT DISTINCT name FROM readings) AS names
    WHERE phase IN ('encode', 'prefill', 'decode', 'queue')
), throttled AS (
    -- From the last reading before to the first one after: running totals over their time.
    SELECT b.request_number, b.name, max(greatest(0, e.value - b.value) / (e.ts_ns - b.ts_ns)) AS ratio
    FROM (SELECT w.*, r.ts_ns, r.value FROM windows AS w
          ASOF JOIN readings AS r ON w.hw_id = r.hw_id AND w.name = r.name AND w.begin_ns >= r.ts_ns) AS b
    ASOF JOIN readings AS e ON b.hw_id = e.hw_id AND b.name = e.name AND b.until_ns <= e.ts_ns
    WHERE e.ts_ns > b.ts_ns
    GROUP BY b.request_number, b.name
), ran AS (
    SELECT e.request_number, e.during, r.visual_stratum,
           -- The parts of a decode are told per token.
           CASE WHEN e.during = 'decode' THEN r.n_output_tokens ELSE 1 END AS tokens,
           e.encode_ns, e.image_prefill_ns, e.text_prefill_ns, e.decode_ns,
           greatest(0, e.steps_ns - e.encode_ns - e.image_prefill_ns - e.text_prefill_ns - e.decode_ns) AS own_ns
    FROM exposures AS e JOIN requests AS r USING (request_number)
    WHERE e.during <> 'queue' AND r.n_output_tokens > 0
), ran_normally AS (
    SELECT during, visual_stratum, median(encode_ns / tokens) AS encode, median(image_prefill_ns / tokens) AS image_prefill,
           median(text_prefill_ns / tokens) AS text_prefill, median(decode_ns / tokens) AS decode, median(own_ns / tokens) AS own
    FROM ran GROUP BY during, visual_stratum
), parts AS (
    SELECT request_number, 'queue' AS phase, cause, ns / 1e6 AS ms, 0 AS normal_ms
    FROM queue_blame WHERE request_number IN (SELECT request_number FROM placed) AND ns > 0
    UNION ALL
    SELECT request_number, 'preprocess', unnest(['fetch', 'decode', 'processor', 'waiting']),
           unnest([fetch_ns, decode_ns, processor_ns, waiting_ns]) / 1e6, 0
    FROM request_parts WHERE request_number IN (SELECT request_number FROM placed)
    UNION ALL
    SELECT r.request_number, r.during, unnest(['image_encode', 'image_prefill', 'text_prefill', 'decode_batch', 'own_chunks']),
           unnest([r.encode_ns, r.image_prefill_ns, r.text_prefill_ns, r.decode_ns, r.own_ns]) / 1e6,
           unnest([n.encode, n.image_prefill, n.text_prefill, n.decode, n.own]) * r.tokens / 1e6
    FROM ran AS r JOIN ran_normally AS n USING (during, visual_stratum)
    WHERE r.request_number IN (SELECT request_number FROM placed)
), told AS (
    SELECT s.request_number, arg_max(p.cause, (p.ms - p.normal_ms, p.cause)) FILTER (p.ms > p.normal_ms) AS largest,
           string_agg(spelled_duration(p.ms) || ' ' || replace(p.cause, '_', ' '), ', ' ORDER BY p.ms DESC, p.cause)
               FILTER (p.ms >= 0.05 * s.phase_ms) AS listed,
           any_value(s.phase_ms) - sum(p.ms) FILTER (p.ms >= 0.05 * s.phase_ms) AS rest_ms
    FROM placed AS s JOIN parts AS p USING (request_number, phase)
    GROUP BY s.request_number
), throttling AS (
    SELECT request_number, arg_max(replace(replace(name, 'vtprof.gpu.throttle_', 'throttled_'), '_ns', ''), (ratio, name)) AS cause,
           max(ratio) AS ratio
    FROM throttled GROUP BY request_number
)
SELECT s.request_number, s.rank, s.visual_stratum, s.total_excess_ms, s.phase, s.phase_ms, s.normal_ms,
       s.phase_ms - s.normal_ms AS excess_ms,
       CASE WHEN v.times > 0 AND s.phase = 'decode' THEN 'preemption'
            WHEN t.ratio >= 0.5 AND s.phase IN ('encode', 'prefill', 'decode') THEN t.cause
            WHEN s.large AND (s.phase = 'preprocess'
                              OR s.phase IN ('encode', 'prefill') AND coalesce(l.largest, 'own_chunks') = 'own_chunks')
            THEN 'own_size'
            ELSE coalesce(l.largest, 'unexplained') END AS cause,
       format('{} took {}, normally {}', s.phase, spelled_duration(s.phase_ms), spelled_duration(s.normal_ms))
           || coalesce('; meanwhile ' || l.listed, '; what ran meanwhile is not recorded')
           || CASE WHEN l.rest_ms >= 0.01 * s.phase_ms THEN ', the rest ' || spelled_duration(l.rest_ms) ELSE '' END
           || CASE WHEN s.long THEN format('; its prompt has {:,} tokens, normally {:,}', s.n_prompt_tokens,
                                           round(s.normal_tokens)::BIGINT)
                   WHEN s.visual THEN format('; its prompt has {:,} visual tokens, normally {:,}', s.n_visual_tokens,
                                             round(s.normal_visual_tokens)::BIGINT)
                   ELSE '' END
           || coalesce('; preempted ' || CASE v.times WHEN 1 THEN 'once' WHEN 2 THEN 'twice'
                                              ELSE format('{:,} times', v.times::BIGINT) END || ' while it decoded', '')
           || CASE WHEN t.ratio >= 0.05 THEN format('; GPU clocks lowered {:.0f} % of the time ({})', 100 * t.ratio,
                                                    replace(t.cause, 'throttled_', '')) ELSE '' END
           || coalesce(format('; beside {:,} {} of others, {:,} with visual tokens: ', n.others,
                              CASE n.others WHEN 1 THEN 'prompt' ELSE 'prompts' END, n.visual_others)
                       || array_to_string(n.largest, ', '), '') AS evidence,
       s.slow_requests AS slow
FROM placed AS s
LEFT JOIN told AS l USING (request_number)
LEFT JOIN preempted AS v USING (request_number)
LEFT JOIN throttling AS t USING (request_number)
LEFT JOIN neighbours AS n USING (request_number);
