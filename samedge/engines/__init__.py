"""The backends behind one protocol. Knows arrays and nothing of SAM."""
