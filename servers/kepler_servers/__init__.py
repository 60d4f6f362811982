"""The servers of Kepler Core: they serve models, estimate and publish watts, and train models."""
