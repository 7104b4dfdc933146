"""What ``bench`` is made of: clocks, the machine's state, stages, and the peers that an engine is measured against."""
