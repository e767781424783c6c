"""The profiling harness."""
