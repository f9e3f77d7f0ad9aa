"""Fuzzing of the reader: broken OTLP files of every format and packing, against Python's json and protobuf as oracle."""
