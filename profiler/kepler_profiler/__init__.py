"""Knows what kind of node it runs on (the profiler)."""
