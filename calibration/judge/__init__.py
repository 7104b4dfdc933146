"""What INT8 costs: noise of tensors, layers by what they cost, the report, and who goes back to float."""
