"""Devices: their peaks with sources, and the roofs that verdicts are made against."""
