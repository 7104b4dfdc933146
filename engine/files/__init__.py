"""Files that come from anywhere: which kind one is, reading with limits and types, writing whole or not at all."""
