"""Language models: from the text section of a config to layer groups, one file per kind of decoder."""
