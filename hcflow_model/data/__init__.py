"""Datasets, LMDBs, pairs, and the errors of reading them."""
