"""Checkpoint files, read without running their code."""
