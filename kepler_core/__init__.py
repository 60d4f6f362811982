"""Kepler Core: train, serve and apply power models for machines whose power cannot be measured.

Importing this package fetches, writes and scans nothing, and imports no plugin.
"""

__version__ = "0.1.0"
