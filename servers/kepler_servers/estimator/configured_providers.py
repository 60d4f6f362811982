"""Make the model providers that a user configures: a model server and a model store."""

from __future__ import annotations

from urllib.parse import urlsplit

from kepler_core.errors import UsageError
from kepler_core.messages import quoted
from kepler_core.urls import shown_url
from kepler_servers.estimator.model_providers import ModelProvider

DEFAULT_MODEL_PATH = "/model"


def model_request_url(url: str, path: str | None, setting: str) -> str:
    """Return the URL for requests to a model server.

    `path` is the path of the endpoint; None means `DEFAULT_MODEL_PATH`. If `url` already has a path, `path` is ignored.
    `setting` is the name of the option or configuration key that contains the URL, for messages. Raises `UsageError` if
    `url` is not http(s)://host:port.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise UsageError(f"{setting}: {quoted(shown_url(url), 100)} is not http://host:port")
    return url if parts.path not in ("", "/") else url.rstrip("/") + (path or DEFAULT_MODEL_PATH)


def model_server_provider(url: str) -> ModelProvider:
    """Return the provider for a model server. `url` is the result of `model_request_url`."""
    from kepler_servers.estimator.remote_providers import ModelServerProvider
    from kepler_servers.estimator.time_limited_provider import TimeLimitedProvider

    return TimeLimitedProvider(ModelServerProvider(url))


def store_provider(location: str, error_key: str = "mae") -> ModelProvider:
    """Return the provider for a model store. It compares the models by the error metric `error_key`."""
    from kepler_core.store import open_store
    from kepler_profiler.similarity import SpecTable
    from kepler_servers.estimator.model_providers import StoreProvider
    from kepler_servers.live_catalogue import LiveCatalogue

    live = LiveCatalogue(open_store(location), compare=SpecTable, error_key=error_key, serving=False)
    return StoreProvider(live)
