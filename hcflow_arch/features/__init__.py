"""Networks that give features of the LR image."""
