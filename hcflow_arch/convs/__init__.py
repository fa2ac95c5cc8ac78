"""How convolutions run: faster or with less memory, numbers unchanged."""
