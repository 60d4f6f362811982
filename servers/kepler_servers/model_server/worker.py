"""The function that each worker process of the model server calls to get its application."""

from __future__ import annotations

import gc
import logging
import os

import msgspec

from kepler_core.logs import LEVELS, configure_logging
from kepler_core.parent_watch import end_with_parent
from kepler_core.store import open_store
from kepler_core.urls import is_url
from kepler_profiler.similarity import SpecTable
from kepler_servers.http.adapter import RsgiAdapter
from kepler_servers.live_catalogue import LiveCatalogue
from kepler_servers.model_server.app import MAX_BODY_BYTES, ModelServer
from kepler_servers.model_server.initial import InitialPipelines
from kepler_servers.model_server.metrics import ServerMetrics
from kepler_servers.model_server.settings import SETTINGS_VARIABLE, Settings

log = logging.getLogger(__name__)


def application() -> RsgiAdapter:
    """Read the model store, and return the application of this worker process."""
    settings = msgspec.json.decode(os.environ[SETTINGS_VARIABLE], type=Settings)
    configure_logging(LEVELS[settings.log_level], as_json=settings.log_format == "json")
    end_with_parent()
    live = LiveCatalogue(open_store(settings.store), compare=SpecTable, error_key=settings.error_key, serving=True)
    # `refresh` makes tens of thousands of long-lived objects. `freeze` exempts them from later garbage collections.
    gc.disable()
    live.refresh()
    gc.enable()
    gc.freeze()
    live.watch()
    initial = InitialPipelines(live, settings.initial, settings.scratch)
    initial.import_in_background()
    metrics = ServerMetrics(live, several_workers=settings.workers > 1)
    # The event loop may not read archives from a store at a URL, because other requests would wait too long.
    server = ModelServer(live, metrics, initial, model_path=settings.model_path, quick=not is_url(settings.store))
    log.info("serving %d models of %s on %s", len(live.current.models), live.store.location, settings.address)
    return RsgiAdapter(server.app, max_body=MAX_BODY_BYTES, cache=server.cache)
