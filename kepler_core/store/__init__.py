"""The model store: pipelines of models in folders, published atomically, versions kept."""

from kepler_core.store.store import ModelEntry, Store

__all__ = ["ModelEntry", "Store"]
