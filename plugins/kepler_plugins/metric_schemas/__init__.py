"""The built-in metric schemas."""
