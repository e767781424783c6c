"""Engines built from a bundle."""
