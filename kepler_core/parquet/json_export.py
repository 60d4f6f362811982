"""Write a recording in Parquet as JSON, with bounded memory."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from kepler_core.arrays import FloatArray
from kepler_core.atomic_files import whole_file
from kepler_core.errors import UsageError
from kepler_core.gzip_files import compressed_by_name
from kepler_core.messages import reason_of
from kepler_core.parquet.reading import PART_SAMPLES, open_parts


def write_json(source: str, output: Path, part_samples: int = PART_SAMPLES) -> int:
    """Write a recording as JSON, gzipped if the name ends in .gz; return the number of its samples.

    Each metric is read in parts of `part_samples` samples. Raises `RecordingError` if the source is not a recording,
    and `UsageError` if the file cannot be written.
    """
    counts = open_parts(source).sample_counts
    try:
        with whole_file(output) as raw, compressed_by_name(raw, output.name) as file:
            for at, name in enumerate(counts):
                file.write((b"{\n" if at == 0 else b",\n") + msgspec.json.encode(name) + b":[\n")
                separator = b""
                for part in open_parts(source, wanted=name.__eq__, part_samples=part_samples).read():
                    metric = part.metrics[name]
                    for series, labels in enumerate(metric.labels):
                        span = metric.span(series)
                        content = _series(labels, metric.timestamps[span], metric.values[span])
                        file.write(separator + content)
                        separator = b",\n"
                file.write(b"]")
            file.write(b"\n}\n" if counts else b"{}\n")
    except OSError as error:
        raise UsageError(f"cannot write {output}: {reason_of(error)}") from error
    return sum(counts.values())


def _series(labels: object, timestamps: FloatArray, values: FloatArray) -> bytes:
    texts = [repr(value).removesuffix(".0") for value in values.tolist()]
    times = [int(time) if time == np.floor(time) else time for time in timestamps.tolist()]
    return msgspec.json.encode({"metric": labels, "values": list(zip(times, texts, strict=True))})
