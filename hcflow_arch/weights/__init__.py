"""Weights from files: safe loading, and the names of released checkpoints."""
