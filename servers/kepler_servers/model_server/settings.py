"""What a worker process of the model server is told, through its environment."""

from __future__ import annotations

import msgspec

TARGET = "kepler_servers.model_server.worker:application"
SETTINGS_VARIABLE = "KEPLER_MODEL_SERVER_SETTINGS"


class Settings(msgspec.Struct, frozen=True):
    """Everything a worker needs to know."""

    store: str
    address: str
    model_path: str = "/model"
    error_key: str = "mae"
    workers: int = 1
    verbose: bool = False
    initial: tuple[str, ...] = ()
    """Pipelines to import."""
    scratch: str = ""
    """A folder of this run, for what the workers share."""
