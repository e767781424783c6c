"""Whether graphs and engines give the checkpoint's masks: probes, comparison, what a bundle keeps to compare with."""
