"""The analyzer: traces in, verdicts and advice out."""
