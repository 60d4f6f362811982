"""Settings of a process, from the same sources as in existing deployments of kepler-model-server.

The value of a setting comes from the first of these sources that contains the setting's key:

1. the command's option
2. the environment variable whose name is the key
3. in the configuration folder, the file whose name is the key (a mounted ConfigMap has one file per key)
4. a line `KEY=VALUE` in the value of the key MODEL_CONFIG, which itself comes from source 2 or 3
5. the default

kepler-model-server used the order 3, 2: the file had priority over the environment variable.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path

from kepler_core.errors import UsageError
from kepler_core.messages import quoted

DEFAULT_FOLDER = "/etc/kepler/kepler.config"
FOLDER_KEY = "CONFIG_PATH"
LINES_KEY = "MODEL_CONFIG"

VOLUME_KEY = "MNT_PATH"
DEFAULT_VOLUME = "/mnt"
"""Folder at which existing deployments mount the volume for models and other data."""

_MAX_FILE_BYTES = 2**20

_SETTING = re.compile(
    r"""(?<!\S)(?:\#.*|([A-Za-z_]\w*)[ \t]*=(?:[ \t]+(?!\#|[A-Za-z_]\w*[ \t]*=))?("[^"]*"|'[^']*'|\S*))""", re.ASCII
)
"""Matches a comment or a setting in a line of MODEL_CONFIG. In `A= B=1`, the value of A is empty."""
_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://")


class Configuration:
    """The settings of one process. Each call of a method reads the sources again."""

    def __init__(self, folder: str | None = None, environ: Mapping[str, str] | None = None) -> None:
        self._environ = os.environ if environ is None else environ
        self.folder = Path(folder or self._environ.get(FOLDER_KEY) or DEFAULT_FOLDER)

    def text(self, key: str, option: str | None = None) -> str | None:
        """Return a setting without surrounding blanks; None if it is empty or not set.

        `option` is the value of the command's option, if the user passed one. Raises `UsageError` if a
        file cannot be read.
        """
        value = option if option is not None else self._read(key)
        if value is None and key != LINES_KEY:
            value = self._lines().get(key)
        return (value or "").strip() or None

    def flag(self, key: str, option: bool | None = None) -> bool | None:
        """Return a setting that is true or false. "true" (in upper or lower case) is true; other texts are false."""
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
        """Return a key's value from the environment variable or else from the file; None if neither exists."""
        value = self._environ.get(key)
        # Ignore MODEL_SERVER_PORT=tcp://10.0.0.1:8100: Kubernetes sets it for a Service that is called model-server.
        if value is not None and not (key.endswith("_PORT") and _SERVICE_ADDRESS.match(value)):
            return value
        try:
            with (self.folder / key).open("rb") as file:
                return file.read(_MAX_FILE_BYTES).decode()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{self.folder / key}: {getattr(error, 'strerror', None) or error}") from error

    def volume(self) -> Path:
        """Return the folder at which containers mount their volume (MNT_PATH), by default `/mnt`."""
        return Path(self.text(VOLUME_KEY) or DEFAULT_VOLUME)

    def _lines(self) -> dict[str, str]:
        """Return the settings in MODEL_CONFIG.

        As in Kepler, a line may hold several settings, separated by blanks. There may be blanks around `=`, and
        quotes around a value. A word that begins with `#` begins a comment.
        """
        settings = {}
        for line in (self._read(LINES_KEY) or "").splitlines():
            for match in _SETTING.finditer(line):
                if match[1] is not None:
                    value = match[2]
                    settings[match[1]] = value[1:-1] if value[:1] in ('"', "'") and value[-1:] == value[:1] else value
        return settings
