"""A scripted NVML library for tests and benchmarks without a GPU."""
