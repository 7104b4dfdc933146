"""Files that come from anywhere: read with limits and types, written whole or not at all."""
