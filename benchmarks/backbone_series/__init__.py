"""What ``ablation.py`` is made of: which networks there are, how they become engines, how they are timed and shown."""
