"""Image encoders of SAM, and the table of them."""
