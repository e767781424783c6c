"""Benchmarks of samedge against the reference packages. The README.md beside this file has the rules."""
