"""How the probe gets between a caller and a function, and out again."""
