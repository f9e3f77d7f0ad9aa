"""Sources of numbers beside the rings: one file each, chosen by name, imported when opened."""
