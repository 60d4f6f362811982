"""Decode the samples of one series: `[[unix_seconds, "number"], ...]` in JSON.

A series that contains only plain decimal numbers is decoded in one call. Any other series is decoded sample by
sample, to accept NaN and infinity, and to name the first wrong value in the error message.
"""

from __future__ import annotations

import itertools
import struct

import msgspec
import numpy as np

from kepler_core.arrays import FloatArray
from kepler_core.documents import DocumentError, decode_json
from kepler_core.errors import RecordingError
from kepler_core.messages import quoted

LATEST_UNIX_SECONDS = 1e11
"""Highest timestamp that is accepted, in the year 5138. Higher timestamps must be in another unit than seconds."""

_flat_numbers = msgspec.json.Decoder(list[float])
_numbers = msgspec.json.Decoder(list[tuple[float, float]], strict=False)
_values = msgspec.json.Decoder(list[str | float | None])
_pairs = msgspec.json.Decoder(list[tuple[str | float, str | float | None]])
_NUMBER_BYTES = b"0123456789+-.eE"
_SHORT_BYTES = 1500
"""Shorter texts are decoded faster as pairs: up to about 50 samples."""


def decode_samples(raw: bytes | msgspec.Raw, *, strict: bool = True) -> FloatArray:
    """Return the samples of a series as one array: timestamp, value, timestamp, value …, shape (2 · samples,).

    Text that is not a number raises `RecordingError` if `strict`, and becomes NaN otherwise. A sample that is not a
    pair of a timestamp and a value always raises `RecordingError`. The error's `path` leads from the series to the
    value.
    """
    if isinstance(raw, msgspec.Raw):
        text = bytes(raw)
        if len(text) > _SHORT_BYTES and (flat := _decode_flat(text)) is not None:
            return flat
    try:
        pairs = decode_json(raw, _numbers)
    except DocumentError:
        return _decode_each(raw, strict)
    return np.fromiter(itertools.chain.from_iterable(pairs), np.float64, 2 * len(pairs))


def _decode_flat(text: bytes) -> FloatArray | None:
    """Decode samples as one list of numbers, without a Python object for each sample.

    `text` must be valid JSON; msgspec has checked this for the content of a `msgspec.Raw`. Return None if `text` is not
    `[[number,"number"],...]` without spaces, or if a number is not written as JSON demands.
    """
    # Without its numbers, such a text has only the commas, brackets and quotation marks of its samples.
    skeleton = text.translate(None, _NUMBER_BYTES)
    n = len(skeleton) // len(b'[,""],')
    if not n or skeleton != b"[" + (b'[,""],' * n)[:-1] + b"]":
        return None
    try:
        numbers = decode_json(b"[" + text.translate(None, b'[]"') + b"]", _flat_numbers)
        return np.frombuffer(struct.pack(f"{2 * n}d", *numbers))
    except (DocumentError, struct.error):
        return None


def check_times(timestamps: FloatArray) -> None:
    """Raise `RecordingError` if a timestamp cannot be in Unix seconds."""
    if len(timestamps) and timestamps.min() >= 0 and timestamps.max() < LATEST_UNIX_SECONDS:
        return  # no timestamp is NaN
    finite = timestamps[np.isfinite(timestamps)]
    if len(finite) and not (finite.min() >= 0 and finite.max() < LATEST_UNIX_SECONDS):
        wrong = finite.max() if finite.max() >= LATEST_UNIX_SECONDS else finite.min()
        hint = " (milliseconds?)" if wrong >= LATEST_UNIX_SECONDS else ""
        raise RecordingError(f"timestamp {wrong:.15g} is not in Unix seconds{hint}")


def decode_export(values: bytes | msgspec.Raw, timestamps: bytes | msgspec.Raw) -> FloatArray:
    """Return the samples of a series in VictoriaMetrics' export, in the form that `decode_samples` returns.

    `timestamps` are in Unix milliseconds. Raises `RecordingError` for malformed samples.
    """
    try:
        milliseconds, numbers = decode_json(timestamps, list[int]), decode_json(values, _values)
    except DocumentError as error:
        raise RecordingError(f"{error}; expected numbers as in VictoriaMetrics' export", path=("values",)) from error
    if len(milliseconds) != len(numbers):
        raise RecordingError(f"{len(numbers)} values, but {len(milliseconds)} timestamps", path=("values",))
    flat = np.empty(2 * len(numbers))
    flat[0::2] = np.array(milliseconds, dtype=np.float64) / 1000
    flat[1::2] = [_number(value, strict=False) for value in numbers]
    return flat


def _decode_each(raw: bytes | msgspec.Raw, strict: bool) -> FloatArray:
    """Decode the samples of a series one by one, because a value is NaN, infinite or malformed."""
    try:
        pairs = decode_json(raw, _pairs)
    except DocumentError as error:
        problem = (
            f'{error}; expected [[unix_seconds, "number"], ...]' if error.kind == "schema" else f"not JSON: {error}"
        )
        raise RecordingError(problem, path=("values",)) from error
    flat = np.empty(2 * len(pairs))
    for at, pair in enumerate(pairs):
        try:
            flat[2 * at : 2 * at + 2] = _number(pair[0], strict), _number(pair[1], strict)
        except ValueError as error:
            raise RecordingError(str(error), path=("values", at)) from None
    return flat


def _number(value: str | float | None, strict: bool) -> float:
    """Return a timestamp or value as a number.

    Text that is not a number raises `ValueError` if `strict`, and is NaN otherwise.
    """
    if value is None:  # some JSON encoders write NaN as null
        return float("nan")
    if isinstance(value, str):
        try:
            if "_" in value:
                raise ValueError
            return float(value)
        except ValueError:
            if not strict:
                return float("nan")
            raise ValueError(f"{quoted(value, 40)} is not a number") from None
    return value
