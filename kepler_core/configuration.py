"""Settings from the sources that existing deployments use.

The first source that has a key decides: the command's option, the environment variable, the file of
that name in the configuration folder (a mounted ConfigMap: one file per key), a line `KEY=VALUE` of the
key MODEL_CONFIG, the default.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

from kepler_core.errors import UsageError
from kepler_core.messages import quoted

DEFAULT_FOLDER = "/etc/kepler/kepler.config"
FOLDER_KEY = "CONFIG_PATH"
LINES_KEY = "MODEL_CONFIG"

_MAX_FILE_BYTES = 2**20


class Configuration:
    """The settings of one process. Each call reads the sources anew."""

    def __init__(self, folder: str | None = None, environ: Mapping[str, str] | None = None) -> None:
        self._environ = os.environ if environ is None else environ
        self.folder = Path(folder or self._environ.get(FOLDER_KEY) or DEFAULT_FOLDER)

    def text(self, key: str, option: str | None = None) -> str | None:
        """Return a setting without surrounding blanks; None if it is not set or empty.

        `option` is the value of the command's option, if the user passed one. Raises `UsageError` if a
        file cannot be read.
        """
        value = option if option is not None else self._read(key)
        if value is None and key != LINES_KEY:
            value = self._lines().get(key)
        return (value or "").strip() or None

    def flag(self, key: str, option: bool | None = None) -> bool | None:
        """Return a setting that is true or false: "true" in any case is true, other texts are false."""
        if option is not None:
            return option
        text = self.text(key)
        return None if text is None else text.casefold() == "true"

    def number(self, key: str, option: float | None = None) -> float | None:
        """Return a setting that is a finite number. Raises `UsageError` for any other text."""
        if option is not None:
            return option
        text = self.text(key)
        if text is None:
            return None
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise UsageError(f"{key}: {quoted(text)} is not a number")
        return number

    def _read(self, key: str) -> str | None:
        """Return a key's value from the environment, else from its file."""
        if (value := self._environ.get(key)) is not None:
            return value
        try:
            with (self.folder / key).open("rb") as file:
                return file.read(_MAX_FILE_BYTES).decode()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{self.folder / key}: {getattr(error, 'strerror', None) or error}") from error

    def _lines(self) -> dict[str, str]:
        """Return the settings in MODEL_CONFIG. Like Kepler, it splits them at blanks, not only at line ends."""
        pairs = (word.partition("=") for word in (self._read(LINES_KEY) or "").split() if "=" in word)
        return {key: value for key, _, value in pairs}
