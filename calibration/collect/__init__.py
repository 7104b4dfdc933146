"""Histograms of a graph's tensors, made by running it on pictures."""
