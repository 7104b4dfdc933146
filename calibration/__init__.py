"""INT8: what tensors look like, where scales go, and what that costs."""
