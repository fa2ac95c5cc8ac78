"""From an image to an image: sampling, noise, tiles."""
