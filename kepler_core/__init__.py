"""Kepler Core: train, serve and apply power models for machines whose power cannot be measured.

Importing this package accesses no network, writes no files, and neither searches for plugins nor imports them.
"""

__version__ = "0.2.0"
