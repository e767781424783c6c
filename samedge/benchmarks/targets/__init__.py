"""The table of targets."""
