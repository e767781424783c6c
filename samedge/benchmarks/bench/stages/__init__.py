"""Measured processes and their protocol."""
