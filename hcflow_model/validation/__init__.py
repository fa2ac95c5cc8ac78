"""Validation and tests: loop, loader, report and sheets."""
