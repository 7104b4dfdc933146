"""Videos in and out: packets, frames, what is said of damage, and files that players understand."""
