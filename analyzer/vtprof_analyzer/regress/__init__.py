"""Telling a slower engine from a heavier workload: pure functions over request tables; numpy alone."""
