"""Automatic labelling of image folders: a detector proposes boxes and classes, SAM segments them."""
