"""Models for BasicSR's MODEL_REGISTRY, and how an update of them runs."""
