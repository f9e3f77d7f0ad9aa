"""Reading what users hand to `compare` and `watch`: traces, request tables, databases and baselines become runs."""
