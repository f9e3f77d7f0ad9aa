"""The agent's series: kept always, shown on a Prometheus page and sent as OpenTelemetry metrics."""
