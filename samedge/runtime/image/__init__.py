"""Reading, resizing and normalisation of images."""
