"""The labels of the series in a Parquet recording, each with its lowest and highest value."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from kepler_core.parquet.fragments import Fragment, files_of, fragments_of, labels_of, read_fragments
from kepler_core.parquet.locations import as_location


def series_values(
    path: str, wanted: Callable[[str], bool]
) -> Iterator[tuple[str, list[tuple[Mapping[str, str], float, float]]]]:
    """Yield each wanted metric and its series: labels, lowest value and highest value.

    One row group of a file is in memory at a time. Values that are not finite are ignored, and so are series without
    any finite value.
    """
    by_metric: dict[str, dict[str, list[Fragment]]] = {}
    for fragment in fragments_of(files_of(as_location(path)), wanted, set()):
        by_metric.setdefault(fragment.metric, {}).setdefault(fragment.path, []).append(fragment)
    for metric, by_file in sorted(by_metric.items()):
        spans: dict[str, tuple[float, float]] = {}
        for file, fragments in by_file.items():
            for _, words, codes, _, values in read_fragments(file, fragments):
                kept = np.isfinite(values)
                lows, highs = np.full(len(words), np.inf), np.full(len(words), -np.inf)
                np.minimum.at(lows, codes[kept], values[kept])
                np.maximum.at(highs, codes[kept], values[kept])
                for word, low, high in zip(words, lows.tolist(), highs.tolist(), strict=True):
                    if low <= high:
                        before = spans.get(word, (low, high))
                        spans[word] = min(low, before[0]), max(high, before[1])
        if spans:
            yield metric, [(labels_of(text, path), low, high) for text, (low, high) in spans.items()]
