"""Models for BasicSR's MODEL_REGISTRY, and how they are trained."""
