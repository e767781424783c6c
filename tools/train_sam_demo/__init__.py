"""Training of sam_demo, the small SAM that samedge carries: scenes, training, evaluation, packing. Not in the wheel."""
