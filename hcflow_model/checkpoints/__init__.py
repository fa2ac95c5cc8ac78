"""Checkpoint files: reading, writing, and what `hcflow info` tells."""
