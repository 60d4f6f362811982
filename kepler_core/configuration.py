"""Settings as existing deployments give them.

In this order: the command's option, the environment variable, the file of that name in the
configuration folder (a mounted ConfigMap: one file per key), a line `KEY=VALUE` of the key
MODEL_CONFIG, the default.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

from kepler_core.errors import UsageError

DEFAULT_FOLDER = "/etc/kepler/kepler.config"
FOLDER_KEY = "CONFIG_PATH"
LINES_KEY = "MODEL_CONFIG"

_MAX_FILE = 2**20


class Configuration:
    """The settings of one process. Files are read when a setting is asked for."""

    def __init__(self, folder: str | None = None, environ: Mapping[str, str] | None = None) -> None:
        self._environ = os.environ if environ is None else environ
        self.folder = Path(folder or self._environ.get(FOLDER_KEY) or DEFAULT_FOLDER)

    def text(self, key: str, given: str | None = None) -> str | None:
        """A setting, without surrounding blanks; None where nobody set it or it is empty."""
        found = given if given is not None else self._own(key)
        if found is None and key != LINES_KEY:
            found = self._lines().get(key)
        return (found or "").strip() or None

    def flag(self, key: str, given: bool | None = None) -> bool | None:
        """A setting that is true or false ("true" is true)."""
        if given is not None:
            return given
        found = self.text(key)
        return None if found is None else found.casefold() == "true"

    def number(self, key: str, given: float | None = None) -> float | None:
        """A setting that is a number; `UsageError` where it is not one."""
        if given is not None:
            return given
        found = self.text(key)
        if found is None:
            return None
        try:
            number = float(found)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise UsageError(f"{key}: {found[:60]!r} is not a number")
        return number

    def _own(self, key: str) -> str | None:
        if (found := self._environ.get(key)) is not None:
            return found
        try:
            with (self.folder / key).open("rb") as file:
                return file.read(_MAX_FILE).decode()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{self.folder / key}: {getattr(error, 'strerror', None) or error}") from error

    def _lines(self) -> dict[str, str]:
        # Kepler separates them at any blank, not only at the end of a line
        pairs = (word.partition("=") for word in (self._own(LINES_KEY) or "").split() if "=" in word)
        return {key: value for key, _, value in pairs}
