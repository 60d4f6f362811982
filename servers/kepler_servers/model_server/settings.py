"""The settings that the command passes to the worker processes of the model server, in an environment variable."""

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
    """For each pipeline to import at the start, the locations to try, in order."""
    scratch: str = ""
    """Path of a temporary folder that the worker processes share."""
