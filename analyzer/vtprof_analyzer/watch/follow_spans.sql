-- What becomes of each span that has arrived or waits. Tables: `arrived` (spans of this poll), `waiting` (of earlier ones),
-- `done` (requests that were handed on: trace_id, span_id, end_ns), `now_ns` (newest_ns, grace_ns, patience_ns, last).
-- One row: one span of a request; fate: ready; done: its request was handed on before; alone: nothing more came of
-- its request for too long; or waiting.
CREATE TABLE fates AS
WITH candidates AS (
    SELECT * FROM arrived
    WHERE dialect IS NOT NULL AND name NOT IN ('vtprof.step', 'vtprof.window')
    UNION ALL BY NAME
    SELECT * FROM waiting ANTI JOIN arrived USING (trace_id, span_id, name, start_ns)
), roots AS (
    SELECT trace_id, span_id, any_value(dialect) AS dialect, max(end_ns) AS end_ns, min(start_ns) AS start_ns
    FROM candidates
    WHERE name = 'vtprof.request' OR dialect = 'vllm' OR dialect = 'sglang' AND sglang_rid IS NOT NULL
    GROUP BY trace_id, span_id
), ready AS (
    -- One without an end is as complete as it gets when nothing came for long.
    SELECT roots.* FROM roots ANTI JOIN done USING (trace_id, span_id), now_ns AS n
    WHERE n.last OR roots.end_ns <= n.newest_ns - n.grace_ns
          OR coalesce(roots.end_ns, roots.start_ns) <= n.newest_ns - n.patience_ns
), known AS (
    SELECT trace_id, span_id, dialect, 'ready' AS fate FROM ready
    UNION ALL SELECT trace_id, span_id, dialect, 'done' FROM done
), whole AS (
    -- SGLang's spans of a request lie under one another: its trace is taken as a whole.
    SELECT trace_id, min(fate) AS fate FROM known WHERE dialect = 'sglang' GROUP BY trace_id
)
SELECT c.*,
       coalesce(CASE WHEN c.dialect = 'sglang' THEN whole.fate END, parent.fate, own.fate,
                CASE WHEN greatest(c.start_ns, c.end_ns) <= n.newest_ns - n.patience_ns OR n.last THEN 'alone' END,
                'waiting') AS fate
FROM candidates AS c
LEFT JOIN known AS own ON c.trace_id = own.trace_id AND c.span_id = own.span_id
LEFT JOIN known AS parent ON c.trace_id = parent.trace_id AND c.parent_span_id = parent.span_id
LEFT JOIN whole ON c.trace_id = whole.trace_id
CROSS JOIN now_ns AS n;
