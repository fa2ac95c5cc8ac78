"""`hcflow page`: upscaling and rescaling in the browser."""
