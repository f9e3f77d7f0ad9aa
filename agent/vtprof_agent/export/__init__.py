"""Where finished spans and metric points go: files, an OTLP/HTTP endpoint, a Prometheus page."""
