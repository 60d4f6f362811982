"""Format of the JSON text that Kepler Core writes to files."""

from __future__ import annotations

from typing import Any

import msgspec


def indented_json(content: Any) -> bytes:
    """Return a value as JSON with one space of indentation and a newline at the end."""
    return msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n"
