"""What is made of a result: the files that ``infer`` writes, and how overlays are drawn."""
