"""Segment Anything models."""
