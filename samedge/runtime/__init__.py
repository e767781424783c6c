"""The runtime: prompts in, masks out. Needs no torch, and is independent of the inference backends."""
