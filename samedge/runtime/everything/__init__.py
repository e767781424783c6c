"""Segment everything: all masks found by a grid of points, without prompts."""
