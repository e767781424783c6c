"""Segment everything: masks of all that a grid of points finds, without a prompt from anybody."""
