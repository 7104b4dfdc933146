"""From a graph to an engine: layout, Q/DQ, the vendor's compiler, and what its layers really run as."""
