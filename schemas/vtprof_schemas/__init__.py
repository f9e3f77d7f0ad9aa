"""What the parts of vtprof share: names, units, ring records, tables and errors. Standard library only."""

SCHEMA_VERSION = 1
"""Version of the span vocabulary and of the run files. A reader reads this one and the one before."""
