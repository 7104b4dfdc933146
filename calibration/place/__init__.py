"""From a table to a graph with Q/DQ: ranges, scales, and where they go."""
