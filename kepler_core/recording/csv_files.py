"""Write the samples of a recording as CSV files, one for each metric."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from urllib.parse import quote

from kepler_core.atomic_files import make_folders, whole_file
from kepler_core.recording.columns import Metric, Recording

_MAX_NAME_CHARACTERS = 180
_TIMESTAMP = "timestamp"


def write_metrics(recording: Recording, folder: Path) -> list[Path]:
    """Write a file `<metric>.csv` for each metric of a recording, and return the paths.

    A file has a row for each sample: the time in Unix seconds (column timestamp), the labels of the series, and the
    value, in a column with the name of the metric. Characters of the metric's name that are neither letters nor
    digits nor one of _.-~: are percent-encoded in the name of the file. Raises `OSError`.
    """
    make_folders(folder)
    paths: dict[str, Path] = {}
    for name, metric in sorted(recording.metrics.items()):
        stem = quote(name, safe=":")[:_MAX_NAME_CHARACTERS]
        file_name = f"{stem}.csv"
        number = 2
        while file_name in paths:  # long names are shortened, so two of them may become equal
            file_name = f"{stem}-{number}.csv"
            number += 1
        path = paths[file_name] = folder / file_name
        with whole_file(path) as file:
            text = io.TextIOWrapper(file, encoding="utf-8", newline="")
            _write(metric, text)
            text.detach()
    return list(paths.values())


def _write(metric: Metric, file: io.TextIOWrapper) -> None:
    writer = csv.writer(file, lineterminator="\n")
    labels = sorted({label for series in metric.labels for label in series} - {"__name__"})
    columns = [f"label_{label}" if label in (_TIMESTAMP, metric.name) else label for label in labels]
    writer.writerow([_TIMESTAMP, *columns, metric.name])
    words = [[series.get(label, "") for label in labels] for series in metric.labels]
    for time, series, value in zip(
        metric.timestamps.tolist(), metric.series.tolist(), metric.values.tolist(), strict=True
    ):
        writer.writerow([_plain(time), *words[series], _plain(value)])
    file.flush()


def _plain(number: float) -> float | int:
    """Return a whole number as an integer, so that it is written without a decimal point."""
    return int(number) if number.is_integer() and abs(number) < 2**53 else number
