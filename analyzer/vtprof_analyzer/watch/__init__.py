"""Telling a regression of a running service: what follows its traces, what judges them, and what tells of it."""
