"""Profile of a graph: time by layer, compared with the machine's peak performance."""
