-- One row: one request whose model's context window is known.
-- request_number     row of `request_base`
-- context_tokens     the window: the engine's limit where its settings tell it, else what the model was made for
-- visual_ratio       visual tokens of the prompt / window; NULL where the request does not tell them
-- window_ratio       prompt and output of one sequence / window
CREATE TABLE context_share AS
SELECT q.request_number, k.context_tokens, q.visual_tokens / k.context_tokens AS visual_ratio,
       (q.input_tokens + coalesce(q.output_tokens, 0) / q.sequences) / k.context_tokens AS window_ratio
FROM request_base AS q
JOIN kv_sizes AS k USING (resource_id)
WHERE k.context_tokens > 0 AND q.input_tokens IS NOT NULL;
