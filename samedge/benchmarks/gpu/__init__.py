"""The run on a machine with a GPU: speed, memory and behaviour."""
