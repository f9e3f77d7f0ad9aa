"""One file (and its helpers of the same prefix) for each engine that the probe can hook."""
