"""Plugins: find them in the metadata of installed distributions, load them by name, call their hooks."""
