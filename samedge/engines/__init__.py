"""Inference backends behind one protocol. Independent of SAM: arrays in, arrays out."""
