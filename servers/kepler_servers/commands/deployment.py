"""Code that the commands of all servers share: log options, and the default folders of the store and the state."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import click

from kepler_core.atomic_files import make_folders
from kepler_core.cli.configured_option import F, configured_option
from kepler_core.configuration import Configuration
from kepler_core.errors import UsageError
from kepler_core.logs import LEVELS, configure_logging
from kepler_core.store.opening import open_store

log = logging.getLogger(__name__)

STORE_KEY = "MODEL_PATH"
STORE_FOLDER = "models"
"""Name of the folder of the model store in the volume of a container (`Configuration.volume`)."""
STATE_FOLDER = "state"


_LOG_FORMAT = "kepler_servers.log_format"
"""Key in `click.Context.meta` under which the log format is stored."""

_log_format_option = configured_option(
    "--log-format",
    key="SERVER_LOG_FORMAT",
    type=click.Choice(["text", "json"], case_sensitive=False),
    default="text",
    show_default=True,
    expose_value=False,
    callback=lambda context, _, value: context.meta.__setitem__(_LOG_FORMAT, value),
    help="Format of the log: one line of text or one line of JSON for each message.",
)

_log_level_option = configured_option(
    "-l",
    "--log-level",
    key="SERVER_LOG_LEVEL",
    metavar="LEVEL",
    type=click.Choice(list(LEVELS), case_sensitive=False),
    help="Least severe messages to log: debug, info, warn or error.  [default: info; after `kepler-model -v`: debug]",
)


def log_options(command: F) -> F:
    """Add the options --log-level (argument `log_level`) and --log-format to the command of a server."""
    return _log_level_option(_log_format_option(command))


def configure_server_logging(context: click.Context, log_level: str | None) -> tuple[str, str]:
    """Configure logging for a server, and return the name of the log level and the log format (text or json)."""
    name = log_level or ("debug" if context.find_root().params.get("verbose") else "info")
    log_format = str(context.meta.get(_LOG_FORMAT, "text"))
    configure_logging(LEVELS[name], as_json=log_format == "json")
    return name, log_format


def store_location(configuration: Configuration, option: str | None) -> str:
    """Return the location of the model store. Raise `UsageError` if no store is configured.

    `option` is the value of the option `--store`. By default, the store is the folder `/mnt/models`, if this folder is
    writable or can be created.
    """
    location = configuration.text(STORE_KEY, option)
    if location is not None:
        return location
    volume = configuration.volume()
    if not _can_write(volume, STORE_FOLDER):
        raise UsageError(
            f"no model store: give --store, or set {STORE_KEY} (the default {volume / STORE_FOLDER} is not writable)"
        )
    return str(volume / STORE_FOLDER)


def store_in_volume(configuration: Configuration) -> str | None:
    """Return the folder of the model store in a container's volume; None if there is no such folder."""
    folder = configuration.volume() / STORE_FOLDER
    return str(folder) if folder.is_dir() else None


def state_folder(configuration: Configuration, server: str) -> str | None:
    """Return the default folder for the state of a server, `/mnt/state/<server>`; None if it cannot be written."""
    volume = configuration.volume()
    return str(volume / STATE_FOLDER / server) if _can_write(volume, STATE_FOLDER, server) else None


def _can_write(volume: Path, *names: str) -> bool:
    """Return whether a folder in the volume is writable or can be created. `names` are the parts of its path.

    The function creates nothing, and a volume that does not exist counts as not writable.
    """
    folder = volume.joinpath(*names)
    while not folder.exists() and folder != volume:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def create_store_folder(location: str) -> None:
    """Create the folder of a local model store if it is missing, and log this.

    Raises `StoreError` if the location is invalid. If the folder cannot be created, only a warning is logged. A server
    that reads the store then waits for the folder, and a server that writes to the store reports the error.
    """
    root = getattr(open_store(location), "root", None)
    if not isinstance(root, Path) or root.is_dir():
        return
    try:
        make_folders(root)
    except OSError as error:
        log.warning("store %s: the folder does not exist and cannot be created: %s", root, error.strerror or error)
    else:
        log.info("store %s: the folder did not exist; created an empty one", root)
