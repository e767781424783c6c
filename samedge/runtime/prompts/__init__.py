"""Prompts: shapes, tokens and batching."""
