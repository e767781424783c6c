"""Measured processes of the table, and the protocol they speak."""
