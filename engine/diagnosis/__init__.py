"""What ``densepose-engine doctor`` finds out of this machine, and what to do about it."""
