"""Synthetic days of production traces with known truth: `day.make_day(scenario, seed)` gives spans and what really happened.

A discrete simulation of engines (continuous batching, chunked prefill, caches, preemption) on devices whose kernels are
not those of the analyzer's cost model. It imports neither the agent nor the analyzer.
"""
