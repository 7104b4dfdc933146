"""The ground floor: what graphs and engines say of themselves, and their files. No torch, no onnx, no vendor."""
