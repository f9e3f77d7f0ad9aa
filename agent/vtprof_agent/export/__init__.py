"""Where finished spans and metric points go: files and OTLP endpoints."""
