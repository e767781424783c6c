"""Training of sam_demo, the small SAM bundled with samedge: scenes, training, evaluation, packing. Not in the wheel."""
