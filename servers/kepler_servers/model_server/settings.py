"""The settings of the model server, which its command passes to the worker processes in an environment variable."""

from __future__ import annotations

import msgspec

TARGET = "kepler_servers.model_server.worker:application"
SETTINGS_VARIABLE = "KEPLER_MODEL_SERVER_SETTINGS"


class Settings(msgspec.Struct, frozen=True):
    """The settings of a worker process."""

    store: str
    address: str
    model_path: str = "/model"
    error_key: str = "mae"
    workers: int = 1
    log_level: str = "info"
    log_format: str = "text"
    initial: tuple[tuple[str, ...], ...] = ()
    """The pipelines to import at the start. Each one is a list of locations, which are tried in order."""
    scratch: str = ""
    """Path of a temporary folder that the worker processes share."""
