"""The built-in extractors."""
