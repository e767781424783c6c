"""Memory, streams and arrays on CUDA devices."""
