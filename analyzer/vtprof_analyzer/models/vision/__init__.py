"""Vision and audio towers: from a section of a config to a `Tower` without adapter, one file per kind."""
