"""Parse the text format in which exporters serve metrics.

Source: the exposition formats of Prometheus (text format 0.0.4, and the same lines in OpenMetrics 1.0). The text comes
from outside, so its size, its numbers of samples and labels, and the length of each string are limited.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

import attrs

from kepler_core.errors import KeplerError
from kepler_core.messages import quoted

MAX_BYTES = 64 * 2**20
"""Maximum size of an exporter's answer. Kepler reports about 1 kB per process, so 60,000 processes fit."""
MAX_SAMPLES = 500_000
MAX_LINE_CHARACTERS = 65_536
MAX_LABELS = 64
MAX_LABEL_CHARACTERS = 4096

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]{0,254}")
_LABEL = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]{0,254})\s*=\s*"((?:[^"\\]|\\.)*)"\s*(,|\})')
_NUMBER = re.compile(
    r"[+-]?(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})(?:[eE][+-]?\d{1,4})?|[+-]?[iI]nf(?:inity)?|[nN]a[nN]"
)
_ESCAPES = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}
_ESCAPE = re.compile(r"\\.")


class ExpositionError(KeplerError):
    """A text is not in the text format of Prometheus, or exceeds a limit."""


@attrs.frozen
class ScrapedSample:
    """One sample in a text."""

    metric: str
    labels: Mapping[str, str]
    value: float
    """May be NaN or infinite."""


def parse_exposition(
    content: bytes, wanted: Callable[[str], bool] = lambda metric: True, *, name: str = ""
) -> list[ScrapedSample]:
    """Return the samples of all wanted metrics, in the order of the text.

    Timestamps and exemplars in the text are ignored. `name` is the text's name in messages. Raises `ExpositionError`
    with the line if any line is malformed, even a line of an unwanted metric. No part of such a text is used.
    """
    if len(content) > MAX_BYTES:
        raise ExpositionError(f"more than {MAX_BYTES} bytes", document=name)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise ExpositionError(f"not UTF-8 text (byte {error.start})", document=name) from error
    samples: list[ScrapedSample] = []
    total = 0
    for number, line in enumerate(text.split("\n"), 1):
        stripped = line.strip(" \t\r")
        if not stripped or stripped[0] == "#":
            continue
        total += 1
        try:
            if total > MAX_SAMPLES:
                raise ValueError(f"more than {MAX_SAMPLES} samples")
            sample = _sample(stripped)
        except ValueError as error:
            raise ExpositionError(f"line {number}: {error}", document=name) from None
        if wanted(sample.metric):
            samples.append(sample)
    return samples


def _sample(line: str) -> ScrapedSample:
    """Return the sample in a line. Raises `ValueError` if the line is malformed."""
    if len(line) > MAX_LINE_CHARACTERS:
        raise ValueError(f"longer than {MAX_LINE_CHARACTERS} characters")
    name = _NAME.match(line)
    if name is None or line[name.end() : name.end() + 1] not in ("{", " ", "\t"):
        raise ValueError(f"{quoted(line)} does not begin with the name of a metric")
    labels, rest = _labels(line, name.end())
    words = line[rest:].split(" # ", 1)[0].split()
    if not 1 <= len(words) <= 2:
        raise ValueError(f"{quoted(line[rest:])} is not a value with an optional timestamp")
    for word in words:
        if _NUMBER.fullmatch(word) is None:
            raise ValueError(f"{quoted(word)} is not a number")
    return ScrapedSample(name.group(), labels, float(words[0]))


def _labels(line: str, at: int) -> tuple[dict[str, str], int]:
    """Return the labels that begin at the position `at` in a line, and the position after the labels."""
    labels: dict[str, str] = {}
    if not line.startswith("{", at):
        return labels, at
    at += 1
    while True:
        if not line[at:].lstrip(" \t").startswith("}"):
            label = _LABEL.match(line, at)
            if label is None:
                raise ValueError(f'{quoted(line[at:])} is not a label name="value"')
            key, value = label[1], _ESCAPE.sub(_unescaped, label[2]) if "\\" in label[2] else label[2]
            if key in labels:
                raise ValueError(f"the label {quoted(key)} occurs twice")
            if len(value) > MAX_LABEL_CHARACTERS:
                raise ValueError(f"the label {quoted(key)} is longer than {MAX_LABEL_CHARACTERS} characters")
            labels[key] = value
            if len(labels) > MAX_LABELS:
                raise ValueError(f"more than {MAX_LABELS} labels")
            at = label.end()
            if label[3] == "}":
                return labels, at
            continue
        return labels, line.index("}", at) + 1


def _unescaped(match: re.Match[str]) -> str:
    escaped = _ESCAPES.get(match.group())
    if escaped is None:
        raise ValueError(f"{quoted(match.group())} is not an escape sequence")
    return escaped


def is_finite(sample: ScrapedSample) -> bool:
    """Return whether a sample's value is a finite number."""
    return math.isfinite(sample.value)
