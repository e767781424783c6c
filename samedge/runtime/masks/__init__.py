"""Mask arrays, drawing, RLE, polygons and suppression."""
