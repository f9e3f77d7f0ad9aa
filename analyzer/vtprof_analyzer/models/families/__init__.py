"""Families: from a whole config to a `ModelSpec`: which tower, which adapter, which language model."""
