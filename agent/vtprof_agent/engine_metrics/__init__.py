"""Engines' own metrics pages, read every few seconds and mapped to the vocabulary by engine and version."""
