"""Built-in outputs of the meter."""
