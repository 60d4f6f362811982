"""The set-up of logging that the command line and the servers share."""

from __future__ import annotations

import logging

COMMAND_FORMAT = "%(levelname)s %(name)s: %(message)s"
SERVER_FORMAT = "%(asctime)s %(levelname)s %(message)s"


def configure_logging(level: int, *, format: str = SERVER_FORMAT) -> None:
    """Log to standard error, in place of any set-up before."""
    logging.basicConfig(level=level, format=format, force=True)
