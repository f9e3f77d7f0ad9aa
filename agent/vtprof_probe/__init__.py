"""The probe: records of one inference process into a ring. Standard library only."""
