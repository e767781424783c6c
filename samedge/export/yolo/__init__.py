"""Export of YOLO models."""
