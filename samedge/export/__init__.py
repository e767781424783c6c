"""The export stage: graphs, precision, parity and bundles. Imports torch and onnx; the runtime never needs it."""
