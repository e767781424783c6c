"""Labels for folders of images: a detector proposes boxes with classes, SAM segments them."""
