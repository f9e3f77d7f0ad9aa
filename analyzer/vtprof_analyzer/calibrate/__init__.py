"""Measures what this machine attains: matrix multiplications per data type and copies, with torch."""
