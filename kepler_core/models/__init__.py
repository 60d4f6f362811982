"""Portable power models: stored without pickle, applied without the library that fitted them."""
