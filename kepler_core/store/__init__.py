"""The model store: pipelines of models, published atomically, versions kept."""

from kepler_core.store.store import Snapshot, Store, open_store

__all__ = ["Snapshot", "Store", "open_store"]
