"""The node agent: rings in, OpenTelemetry spans and metrics out."""
