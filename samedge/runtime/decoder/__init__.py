"""Embeddings, input and output schemes, and decoding of prompts."""
