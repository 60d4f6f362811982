"""Logging set-up of the command line and the servers."""

from __future__ import annotations

import datetime
import json
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
"""Maps the names of log levels on a server's command line to levels of the module `logging`."""


class JsonFormatter(logging.Formatter):
    """Formats each log record as one line of JSON: time (UTC, ISO 8601), level, logger, message and, if any, error."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds")
        line = {"time": time, "level": record.levelname, "logger": record.name, "message": record.getMessage()}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure_logging(level: int, *, format: str = SERVER_FORMAT, as_json: bool = False) -> None:
    """Send log records of at least `level` to standard error. Replace any earlier logging configuration.

    With `as_json`, each record is a line of JSON, and `format` is not used.
    """
    logging.basicConfig(level=level, format=format, force=True)
    if as_json:
        for handler in logging.getLogger().handlers:
            handler.setFormatter(JsonFormatter())
