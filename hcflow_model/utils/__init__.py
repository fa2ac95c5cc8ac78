"""Files, memory, processes and devices."""
