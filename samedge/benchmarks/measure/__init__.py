"""Rounds, processes, memory, power and facts of the machine."""
