"""Image files and arrays."""
