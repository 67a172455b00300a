"""What runs a bundle: ONNX Runtime and TensorRT behind one protocol."""
