"""Networks of other programs, given as ONNX, made into bundles."""
