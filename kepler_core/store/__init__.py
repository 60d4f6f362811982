"""The model store, which publishes pipelines of models atomically and keeps their versions."""

from kepler_core.store.opening import open_store
from kepler_core.store.snapshot import Snapshot
from kepler_core.store.store import Store

__all__ = ["Snapshot", "Store", "open_store"]
