"""From the torch model to the ONNX graph: exact rewrites, parts converted one by one, then joined by our nodes."""
