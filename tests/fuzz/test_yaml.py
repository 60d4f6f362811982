"""Fuzz YAML documents, pipeline files and values of the option `--set`: each is accepted, or rejected with one line."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import strategies as st
from support.fuzzing import fuzz

from kepler_core.documents import MAX_DEPTH, MAX_NUMBER, DocumentError
from kepler_core.errors import PipelineError
from kepler_core.pipeline.load import pipeline_from
from kepler_core.pipeline.settings import apply_setting
from kepler_core.yaml_documents import decode_yaml, encode_yaml

PIECES = [
    "a", "b: ", "- ", "? ", ": ", "[", "]", "{", "}", ", ", "&x ", "*x", "&y ", "*y", "!!", "!!int ", "!!bool ",
    "!x ", "<<: ", "=", "~", "|", ">", "|2-", "'", '"', "\\", "\\x41", "\\ud800", "\\UFFFFFFFF", "#", "%YAML 1.1\n",
    "%TAG ! x\n", "---\n", "...\n", "\n", "\n  ", "\t", "\r", "\0", "\u2028", "\ufeff", "\ud800", "0x", "0b", "0o7",
    "1_0", "1:59", ".5", "-.inf", ".nan", "9" * 41, "9" * 5000, "1.e+9", "2024-13-45", "2001-12-14t21:59:43.10-05:00",
    "yes", "null", "[" * 90, "{a: " * 90, "name: x\n", "seed: ", "abs_trainers: ", "LinearRegressionTrainer", "args: ",
    "validation: ", "third_party: ",
]  # fmt: skip

texts = st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=30).map("".join)


def decoded(text: str) -> Any:
    """Return the content of a YAML document, or None if it is rejected with a one-line `DocumentError`."""
    try:
        content = decode_yaml(text)
    except DocumentError as error:
        message = str(error)
        assert message.isprintable()
        assert len(message) < 500
        return None
    check_plain(content, MAX_DEPTH)
    return content


def check_plain(value: Any, levels: int) -> None:
    """Check that a value has only types and sizes that `decode_yaml` may return, and at most `levels` nested levels."""
    if type(value) in (dict, list):
        assert levels > 0
        for key in value if isinstance(value, dict) else ():
            assert type(key) is str
        for item in value.values() if isinstance(value, dict) else value:
            check_plain(item, levels - 1)
    elif type(value) in (int, float):
        assert abs(value) <= MAX_NUMBER
    else:
        assert value is None or type(value) in (str, bool)


def rejects_in_one_line(message: str) -> None:
    assert "\n" not in message
    assert len(message) < 2000


def check_document(text: str) -> None:
    """Check that a YAML document is decoded to plain values, or rejected with one line.

    If the document is a mapping, also use its keys as a pipeline, which must be accepted or rejected with one line.
    """
    content = decoded(text)
    msgspec.json.encode(content)
    if len(written := encode_yaml(content)) < 10_000:
        assert decode_yaml(written) == content
    if isinstance(content, dict):
        try:
            pipeline_from({"name": "x", **content}, "here")
        except PipelineError as error:
            rejects_in_one_line(str(error))


def check_setting(drawn: tuple[str, str, bool]) -> None:
    """Check that a pipeline accepts a value of `--set`, or rejects it with an error of one line."""
    path, value, in_arguments = drawn
    document = {"name": "x", "abs_trainers": ["LinearRegressionTrainer"]}
    try:
        apply_setting(document, f"{'abs_trainers.0.args.' if in_arguments else ''}{path}={value}")
        pipeline_from(document, "here")
    except PipelineError as error:
        rejects_in_one_line(str(error))


def test_documents_and_pipeline_files() -> None:
    fuzz(texts, check_document)


def test_settings() -> None:
    paths = st.lists(texts, min_size=1, max_size=4).map(".".join)
    fuzz(st.tuples(paths, texts, st.booleans()), check_setting)
