"""What `hcflow explore` shows of one image."""
