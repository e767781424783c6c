"""The public classes and functions."""
