"""Checkpoints, read without trusting them."""

from .load import load_checkpoint, load_weights

__all__ = ["load_checkpoint", "load_weights"]
