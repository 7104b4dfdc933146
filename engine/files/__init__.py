"""Files of every kind: which one it is, and how one is written whole or not at all."""
