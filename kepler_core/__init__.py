"""Kepler Core: train, serve and apply power models for machines whose power cannot be measured.

Importing this package is cheap: nothing is fetched, written or scanned, and no plugin is imported.
"""

__version__ = "0.1.0"
