"""Stands in for pieces of BasicSR's train.py and test.py."""
