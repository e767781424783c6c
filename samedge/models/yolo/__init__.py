"""YOLO models."""
