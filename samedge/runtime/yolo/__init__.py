"""The YOLO predictor."""
