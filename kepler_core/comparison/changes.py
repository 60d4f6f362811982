"""Differences between the two sides of a comparison, besides the models: settings, recordings and software."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from kepler_core.comparison.sides import Side
from kepler_core.messages import printable

MAX_CHANGES = 200
"""Maximum number of changed settings in the result. A pipeline from elsewhere may have any number of settings."""
MAX_RECORDINGS = 50
_VALUE_CHARACTERS = 200

_NAMED_LISTS = ("abs_trainers", "dyn_trainers", "isolator", "extractor")
"""Keys of a pipeline whose values are plugins with arguments: {"name": …, "args": {…}}, or a list of them."""


class Change(msgspec.Struct, frozen=True):
    """A setting that differs: `first` is its value on side A, `second` on side B; None if the side does not have it."""

    key: str
    """Path of the setting, e.g. `validation.folds`."""
    first: str | None
    second: str | None


class Recordings(msgspec.Struct, frozen=True):
    """The recordings that models were trained on, in three lists: on both sides, only on side A, and only on side B.

    Each entry names a recording and a node.
    """

    both: list[str]
    only_first: list[str]
    only_second: list[str]


def changes_of(one: Side, two: Side) -> list[Change]:
    """Return the settings that differ, sorted by key: pipeline files, lineage (data and software), and plugins."""
    flat = [dict(_settings(side)) for side in (one, two)]
    keys = sorted(key for key in flat[0].keys() | flat[1].keys() if flat[0].get(key) != flat[1].get(key))
    return [Change(printable(key), *(_shown(side.get(key)) for side in flat)) for key in keys[:MAX_CHANGES]]


def recordings_of(one: Side, two: Side) -> Recordings:
    """Return the recordings that both sides, only side A, and only side B were trained on."""
    first, second = _recordings(one), _recordings(two)
    return Recordings(
        [name for name in first if name in second][:MAX_RECORDINGS],
        [name for name in first if name not in second][:MAX_RECORDINGS],
        [name for name in second if name not in first][:MAX_RECORDINGS],
    )


def same_data(one: Side, two: Side) -> bool | None:
    """Return whether both sides were trained on the same data, according to the digests in their metadata.

    Return None if a side states no digest.
    """
    digests = [side.part("lineage").get("data") for side in (one, two)]
    return None if None in digests else digests[0] == digests[1]


def _recordings(side: Side) -> list[str]:
    streams = side.metadata.get("recordings")
    names = [
        f"{stream.get('recording')}, node {stream.get('node') or 'without a name'}"
        for stream in (streams if isinstance(streams, list) else [])
        if isinstance(stream, dict)
    ]
    return [printable(name) for name in dict.fromkeys(names)]


def _settings(side: Side) -> Iterator[tuple[str, str]]:
    pipeline = side.part("pipeline")
    for key, value in pipeline.items():
        yield from _plugins(key, value) if key in _NAMED_LISTS else _flat(key, value)
    for key in ("lineage", "plugins"):
        if (value := side.metadata.get(key)) is not None:
            yield from _flat(key, value)


def _plugins(key: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield one setting for each plugin, named after the plugin, so that a new trainer changes no other setting."""
    for plugin in value if isinstance(value, list) else [value]:
        entry = plugin if isinstance(plugin, Mapping) else {"name": plugin, "args": {}}
        yield f"{key}: {entry.get('name')}", _text(entry.get("args") or "used")


def _flat(key: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for name, part in value.items():
            yield from _flat(f"{key}.{name}", part)
    else:
        yield key, _text(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _shown(text: str | None) -> str | None:
    return None if text is None else printable(text, _VALUE_CHARACTERS)
