-- One row: one cause of the time that one request queued before its first token. The causes of a request add up to its
-- `request_budget.queue_ns`; unexplained always has a row.
-- request_number     row of `request_base`
-- cause              what its process did meanwhile: image_encode, image_prefill, text_prefill or decode_batch, each of
--                    others; capacity (whatever ran: the step passed over waiting requests for want of room in the KV cache
--                    or among the sequences); own_chunks (its own work was under way); unexplained (no step ran, or none that
--                    tells)
-- ns                 [ns]
CREATE TABLE queue_blame AS
WITH told AS (
    SELECT b.request_number, b.queue_ns, coalesce(e.own_ns, 0) AS own_chunks, coalesce(e.blocked_ns, 0) AS capacity,
           greatest(0, coalesce(e.encode_ns - e.blocked_encode_ns, 0)) AS image_encode,
           greatest(0, coalesce(e.image_prefill_ns - e.blocked_image_ns, 0)) AS image_prefill,
           greatest(0, coalesce(e.text_prefill_ns - e.blocked_text_ns, 0)) AS text_prefill,
           -- A blocked step is never of folded iterations: what of it is nothing else is decode.
           greatest(0, coalesce(e.decode_ns - greatest(0, e.blocked_ns - e.blocked_encode_ns - e.blocked_image_ns
                                                          - e.blocked_text_ns), 0)) AS decode_batch
    FROM request_budget AS b
    LEFT JOIN exposures AS e ON e.request_number = b.request_number AND e.during = 'queue'
    WHERE b.queue_ns > 0
), whole AS (
    -- Whole nanoseconds, never more than there were: what is cut off is unexplained.
    SELECT request_number, queue_ns,
           least(1, queue_ns / nullif(own_chunks + capacity + image_encode + image_prefill + text_prefill + decode_batch, 0))
               AS fits,
           floor(own_chunks * fits)::BIGINT AS own_chunks, floor(capacity * fits)::BIGINT AS capacity,
           floor(image_encode * fits)::BIGINT AS image_encode, floor(image_prefill * fits)::BIGINT AS image_prefill,
           floor(text_prefill * fits)::BIGINT AS text_prefill, floor(decode_batch * fits)::BIGINT AS decode_batch
    FROM told
), causes AS (
    SELECT request_number, unnest([
               {cause: 'own_chunks', ns: own_chunks}, {cause: 'text_prefill', ns: text_prefill},
               {cause: 'image_prefill', ns: image_prefill}, {cause: 'image_encode', ns: image_encode},
               {cause: 'decode_batch', ns: decode_batch}, {cause: 'capacity', ns: capacity},
               {cause: 'unexplained', ns: queue_ns - coalesce(
                   own_chunks + text_prefill + image_prefill + image_encode + decode_batch + capacity, 0)}
           ], recursive := true)
    FROM whole
)
SELECT request_number, cause, coalesce(ns, 0) AS ns FROM causes WHERE ns > 0 OR cause = 'unexplained';
