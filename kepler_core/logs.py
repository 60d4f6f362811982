"""Logging set-up of the command line and the servers."""

from __future__ import annotations

import logging

COMMAND_FORMAT = "%(levelname)s %(name)s: %(message)s"
SERVER_FORMAT = "%(asctime)s %(levelname)s %(message)s"

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
"""Name of a log level on a server's command line -> level of the module `logging`."""


def configure_logging(level: int, *, format: str = SERVER_FORMAT) -> None:
    """Send log records of at least `level` to standard error. Replace any earlier logging configuration."""
    logging.basicConfig(level=level, format=format, force=True)
