"""Parity of graphs and engines with the checkpoint: probes, comparison, stored reference."""
