"""The model server: every Kepler node asks it for the model that fits its machine."""
