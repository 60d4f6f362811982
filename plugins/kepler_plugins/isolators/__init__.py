"""The built-in isolators."""
