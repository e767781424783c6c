"""Graphs: plans, tracing, exact rewrites."""
