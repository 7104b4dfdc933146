"""The networks in torch, with the parameter names of detectron2, DensePoseFnL and timm; their tables need no torch."""
