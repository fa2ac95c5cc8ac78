"""Losses, and how option blocks become losses."""
