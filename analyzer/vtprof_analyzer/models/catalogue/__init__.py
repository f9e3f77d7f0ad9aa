"""The bundled models: facts of released checkpoints (sizes, limits, where they were read), found by name."""
