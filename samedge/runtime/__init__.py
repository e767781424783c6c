"""The runtime: prompts in, masks out. Knows SAM and nothing of onnxruntime or TensorRT; imports no torch."""
