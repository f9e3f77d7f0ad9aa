-- One row: one inference request, from our own request span, or from vLLM's or SGLang's where ours does not tell of it.
-- request_number     in order of arrival: what other tables name it by, as a number is a tenth cheaper to join by than ids;
--                    two answers to one request id are two requests
-- trace_id, span_id  ids of its span; where several differ under one id, '#2' and so on behind the later ones', whose phases
--                    cannot be told from those of the first; resource_id: row of `resources`; dialect: vtprof, vllm or sglang
-- request_id, model  as recorded
-- status             ok, aborted, rejected, error, or unknown for any other text; NULL when none was recorded
-- arrival_ns, end_ns Unix time; a missing or earlier end is replaced by the last thing known of the request
-- end_missing, negative_duration  whether that was done
-- e2e_ns             arrival to end; NULL when the end is not known
-- ttft_ns            arrival to first token; NULL when there was none, or it is not recorded or impossible
-- impossible_ttft    whether the recorded one was negative or later than the end
-- tpot_ns            (end - first token) / (output tokens of a sequence - 1); NULL for fewer than two tokens
-- sequences          how many spans of vLLM tell of it: the n answers to one request, which each count the prompt's KV; else 1
-- weight             requests that it stands for: 1 / sampling ratio, 1 where all were kept or none was recorded
-- *_tokens           tokens; visual_tokens is image + video; NULL is not recorded
-- *_items            images, videos, audio clips in the prompt
-- recorded_kv_bytes, recorded_kv_visual_bytes  bytes, as the probe read them from the engine
CREATE TABLE request_base AS
WITH broken AS (
    SELECT trace_id, span_id FROM spans
    WHERE name = 'vtprof.request' AND (end_ns IS NULL OR end_ns < start_ns)
), last_child AS (
    SELECT child.trace_id, child.parent_span_id AS span_id, max(greatest(child.start_ns, child.end_ns)) AS last_ns
    FROM spans AS child
    JOIN broken ON child.trace_id = broken.trace_id AND child.parent_span_id = broken.span_id
    GROUP BY ALL
), recorded AS (
    -- A time to first token beyond three years is no measurement; it would only overflow what it is added to.
    SELECT * REPLACE (CASE WHEN ttft_ns > 100_000_000_000_000_000 THEN -1 ELSE ttft_ns END AS ttft_ns,
                      CASE WHEN lower(trim(request_status)) IN ('ok', 'aborted', 'rejected', 'error')
                           THEN lower(trim(request_status)) WHEN request_status IS NOT NULL THEN 'unknown' END
                          AS request_status)
    FROM spans WHERE name = 'vtprof.request'
), ours AS (
    SELECT
        s.trace_id, s.span_id, s.resource_id, s.dialect, s.request_id, s.request_model AS model,
        s.request_status AS status, s.start_ns AS arrival_ns,
        s.end_ns IS NULL AS end_missing,
        coalesce(s.end_ns < s.start_ns, false) AS negative_duration,
        CASE WHEN s.end_ns >= s.start_ns THEN s.end_ns
             ELSE greatest(s.start_ns, last_child.last_ns, s.start_ns + s.ttft_ns) END AS end_ns,
        s.ttft_ns, 1 / s.sampling_ratio AS weight,
        s.input_tokens, s.output_tokens,
        s.tokens_text AS text_tokens, s.tokens_image AS image_tokens, s.tokens_video AS video_tokens,
        s.tokens_audio AS audio_tokens, s.tokens_cached AS cached_tokens,
        s.items_image AS image_items, s.items_video AS video_items, s.items_audio AS audio_items,
        s.kv_bytes AS recorded_kv_bytes, s.kv_visual_bytes AS recorded_kv_visual_bytes
    FROM recorded AS s
    LEFT JOIN last_child ON s.trace_id = last_child.trace_id AND s.span_id = last_child.span_id
), vllm_spans AS (
    -- (`least` and `greatest` pass over NULL: they would make a time of one that was not recorded.)
    -- Aborted and rejected requests have no span: the status of those that have one is not told either.
    SELECT
        trace_id, span_id, resource_id, dialect, vllm_request_id AS request_id, start_ns AS arrival_ns,
        vllm_e2e_s IS NULL AND end_ns IS NULL AS end_missing,
        coalesce(vllm_e2e_s < 0, end_ns < start_ns, false) AS negative_duration,
        greatest(start_ns, coalesce(start_ns + (if(vllm_e2e_s > 1e8, 1e8, vllm_e2e_s) * 1e9)::BIGINT, end_ns)) AS end_ns,
        CASE WHEN vllm_ttft_s IS NOT NULL THEN (greatest(-1, least(vllm_ttft_s, 1e8)) * 1e9)::BIGINT END AS ttft_ns,
        vllm_prompt_tokens AS input_tokens, vllm_completion_tokens AS output_tokens
    FROM spans
    WHERE dialect = 'vllm'
), vllm_ranked AS (
    -- Each of the n answers to one request has a span, under its id and with its arrival, in traces of their own.
    SELECT *, row_number() OVER (answers ORDER BY ttft_ns < 0, ttft_ns NULLS LAST, trace_id, span_id) AS place,
           count(*) OVER answers AS sequences, max(end_ns) OVER answers AS last_ns,
           bool_or(end_missing) OVER answers AS any_missing, bool_or(negative_duration) OVER answers AS any_negative,
           CASE WHEN count(output_tokens) OVER answers = count(*) OVER answers
                THEN (sum(output_tokens) OVER answers)::BIGINT END AS all_output
    FROM vllm_spans
    WINDOW answers AS (
        PARTITION BY resource_id, coalesce(request_id, trace_id || '-' || span_id), arrival_ns, input_tokens
    )
), vllm AS (
    SELECT * EXCLUDE (place, last_ns, any_missing, any_negative, all_output)
           REPLACE (last_ns AS end_ns, any_missing AS end_missing, any_negative AS negative_duration,
                    all_output AS output_tokens)
    FROM vllm_ranked WHERE place = 1
), sglang AS (
    SELECT
        trace_id, span_id, resource_id, dialect, coalesce(sglang_request_id, sglang_rid) AS request_id,
        sglang_model AS model, start_ns AS arrival_ns,
        CASE WHEN contains(sglang_finish_reasons, '"abort"') THEN 'aborted'
             WHEN sglang_finish_reasons IS NOT NULL THEN 'ok' END AS status,
        sglang_e2e_s IS NULL AND end_ns IS NULL AS end_missing,
        coalesce(sglang_e2e_s < 0, end_ns < start_ns, false) AS negative_duration,
        greatest(start_ns, coalesce(start_ns + (if(sglang_e2e_s > 1e8, 1e8, sglang_e2e_s) * 1e9)::BIGINT, end_ns)) AS end_ns,
        CASE WHEN sglang_ttft_s IS NOT NULL THEN (greatest(-1, least(sglang_ttft_s, 1e8)) * 1e9)::BIGINT END AS ttft_ns,
        sglang_prompt_tokens AS input_tokens, sglang_completion_tokens AS output_tokens,
        sglang_cached_tokens AS cached_tokens
    FROM spans
    WHERE dialect = 'sglang' AND sglang_rid IS NOT NULL
), engines_own AS (
    SELECT * FROM vllm UNION ALL BY NAME SELECT * FROM sglang
), told_by_ours AS (
    -- With the probe in the engine too, both tell of a request: by one id (vLLM's own may have a suffix), at one time.
    SELECT DISTINCT e.trace_id, e.span_id
    FROM engines_own AS e
    JOIN ours AS o ON regexp_replace(e.request_id, '-[0-9a-f]{8}$', '') = regexp_replace(o.request_id, '-[0-9a-f]{8}$', '')
    WHERE o.arrival_ns <= e.end_ns AND e.arrival_ns <= o.end_ns
    UNION
    -- Where one of them tells no id the trace must do; requests with ids may share their caller's.
    SELECT DISTINCT e.trace_id, e.span_id
    FROM engines_own AS e
    JOIN ours AS o USING (trace_id)
    WHERE (e.request_id IS NULL OR o.request_id IS NULL) AND o.arrival_ns <= e.end_ns AND e.arrival_ns <= o.end_ns
), both_dialects AS (
    SELECT * FROM ours
    UNION ALL BY NAME
    SELECT * FROM engines_own ANTI JOIN told_by_ours USING (trace_id, span_id)
), possible AS (
    -- Where the end was repaired it is no earlier than the first token; else the first token lies before the end.
    SELECT * REPLACE (CASE WHEN ttft_ns BETWEEN 0 AND end_ns - arrival_ns THEN ttft_ns END AS ttft_ns),
           ttft_ns IS NOT NULL AND ttft_ns NOT BETWEEN 0 AND end_ns - arrival_ns AS impossible_ttft
    FROM both_dialects
), told_apart AS (
    SELECT * EXCLUDE (place) REPLACE (if(place > 1, span_id || '#' || place, span_id) AS span_id)
    FROM (SELECT *, row_number() OVER (PARTITION BY trace_id, span_id ORDER BY arrival_ns, end_ns, ttft_ns) AS place
          FROM possible)
)
SELECT
    row_number() OVER () AS request_number,
    *,
    CASE WHEN image_tokens IS NOT NULL OR video_tokens IS NOT NULL
         THEN coalesce(image_tokens, 0) + coalesce(video_tokens, 0) END AS visual_tokens,
    CASE WHEN NOT end_missing AND NOT negative_duration THEN end_ns - arrival_ns END AS e2e_ns,
    CASE WHEN output_tokens >= 2 * sequences AND NOT end_missing AND NOT negative_duration
              AND end_ns - arrival_ns >= ttft_ns
         THEN (end_ns - arrival_ns - ttft_ns) / (output_tokens / sequences - 1) END AS tpot_ns
FROM (
    SELECT * REPLACE (coalesce(sequences, 1) AS sequences, coalesce(weight, 1)::DOUBLE AS weight) FROM told_apart
    -- Sorted first and then numbered, as steps are.
    ORDER BY arrival_ns, trace_id, span_id
);
