"""OTLP receiver: takes the spans that engines send by themselves, over HTTP and gRPC, from this machine."""
