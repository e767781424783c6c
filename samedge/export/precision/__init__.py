"""float16, int8 and fp8 graphs."""
