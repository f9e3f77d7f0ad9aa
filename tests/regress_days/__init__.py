"""Days of vision-language model serving with a known truth, for scoring `vtprof compare` and `vtprof watch`.

A simulator of one engine per model, request by request: arrivals with bursts and a swing in rate and mix, worker
processes for preprocessing, a queue with admission, steps of a token budget that hold encoder batches, prefill chunks
and decode together, an encoder cache (least recently used, Zipf popularity), a prefix cache, continuous batching.
Steps with an encoder batch or a prefill chunk are simulated one by one; a stretch of steps that only decode is summed
in closed form. Phase times are walls as an engine's spans show them, so they contain what neighbours did in the same
steps. Costs are quadratic in patches and in tokens times context, with a smooth roofline; noise is lognormal with
Pareto hiccups, autocorrelated on the host and in the clock, and each run has a factor of its own per phase.

It was written without sight of the detector's cost model, and imports nothing of it. What it is not: preemption,
speculative decoding, tensor parallelism, transfers between machines, audio and video are left out, and its constants
are plausible for a 3B to 8B model on one data-centre GPU, not measured on one.
"""
