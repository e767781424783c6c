"""Built engines on disk, and their keys."""
