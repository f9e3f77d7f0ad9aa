"""Counters of GPUs over windows of time, given to the work that was done in them."""
