"""Collect readings of an exporter, and return them as a recording in the form of Prometheus range-query results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from kepler_core.atomic_files import whole_file
from kepler_core.errors import KeplerError
from kepler_core.scrape.exposition import is_finite
from kepler_core.scrape.scraper import Scrape

MAX_VALUES = 20_000_000
"""Maximum number of values in memory: more would take over 2 GB."""
MAX_SERIES = 200_000


class Readings:
    """Collects scrapes of one exporter."""

    def __init__(self, labels: Mapping[str, str]) -> None:
        """`labels` are added to each series, as Prometheus adds `instance`. A label of the exporter has priority."""
        self._labels = dict(labels)
        self._series: dict[tuple[str, frozenset[tuple[str, str]]], list[list[Any]]] = {}
        self._values = 0
        self.scrapes = 0
        """Number of scrapes that the method `add` has added."""

    def add(self, scrape: Scrape) -> None:
        """Add the samples of a scrape. Values that are not finite are left out.

        Raises `KeplerError` if there are more series or values than fit in memory.
        """
        stamp = round(scrape.time, 3)
        seen = set()
        for sample in scrape.samples:
            key = (sample.metric, frozenset({**self._labels, **sample.labels}.items()))
            if key in seen or not is_finite(sample):
                continue
            seen.add(key)
            self._series.setdefault(key, []).append([stamp, repr(sample.value)])
        self._values += len(seen)
        self.scrapes += 1
        if self._values > MAX_VALUES or len(self._series) > MAX_SERIES:
            raise KeplerError(
                f"{len(self._series)} series with {self._values} values: more than can be kept; read less often, or "
                "for a shorter time"
            )

    def content(self) -> dict[str, list[dict[str, Any]]]:
        """Return the recording in Prometheus' form. Labels with an empty text are left out, as Prometheus does."""
        content: dict[str, list[dict[str, Any]]] = {}
        for (metric, labels), values in self._series.items():
            named = {name: value for name, value in sorted(labels) if value}
            content.setdefault(metric, []).append({"metric": named, "values": values})
        return content

    def write(self, path: Path) -> None:
        """Write the recording; an existing file is replaced when the new one is complete. Raises `OSError`."""
        encoded = msgspec.json.encode(self.content())
        if path.suffix == ".gz":
            import gzip

            encoded = gzip.compress(encoded, 6, mtime=0)
        with whole_file(path) as file:
            file.write(encoded)
