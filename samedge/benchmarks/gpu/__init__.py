"""Benchmark on a GPU: speed, memory and behaviour."""
