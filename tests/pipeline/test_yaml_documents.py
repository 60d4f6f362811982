"""Tests that YAML is decoded to plain values of limited size, or rejected with one line about the first problem."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from support.paths import ROOT

from kepler_core.documents import MAX_CHARACTERS, MAX_DEPTH, DocumentError
from kepler_core.errors import PipelineError
from kepler_core.pipeline import load_pipeline
from kepler_core.pipeline.load import MAX_ARGUMENT_DEPTH, pipeline_from
from kepler_core.pipeline.spec import MAX_THIRD_PARTY
from kepler_core.yaml_documents import MAX_BYTES, MAX_VALUES, decode_yaml, encode_yaml

ALIASES = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{previous}'] * 10)}]\n" for previous, name in zip("abcdef", "bcdefg", strict=True)
)
"""YAML of less than 400 bytes whose aliases expand to 10^7 strings."""


def brackets(levels: int) -> str:
    return "[" * levels + "]" * levels


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("", None),
        ("# only a comment", None),
        ("~", None),
        ("[1, -2, 0x10, 1_000, 0o7, 1.5, 1e3, -0.5]", [1, -2, 16, 1000, "0o7", 1.5, "1e3", -0.5]),
        ("[true, No, on, 'yes', \"1\", null]", [True, False, True, "yes", "1", None]),
        ("a: {b: [c, d]}\ne: |\n  two\n  lines\n", {"a": {"b": ["c", "d"]}, "e": "two\nlines\n"}),
        ("[2024-01-05, 2024-13-45]", ["2024-01-05", "2024-13-45"]),
        ("2001-12-14t21:59:43.10-05:00", "2001-12-14t21:59:43.10-05:00"),
        ("=", "="),
        ("{=: =}", {"=": "="}),
        ("a: &x [1]\nb: *x", {"a": [1], "b": [1]}),
        ("&k key: *k", {"key": "key"}),
        (brackets(MAX_DEPTH), None),
        ("x" * MAX_CHARACTERS, "x" * MAX_CHARACTERS),
        (str(2**53), 2**53),
    ],
)  # fmt: skip
def test_plain_values(text: str, content: Any) -> None:
    decoded = decode_yaml(text)
    assert content is None or (decoded == content and type(decoded) is type(content))


def test_values_that_an_anchor_shares_are_separate() -> None:
    document = decode_yaml("a: &x {y: [1]}\nb: *x\nc: [*x]")
    document["a"]["y"].append(2)
    assert document["b"] == {"y": [1]}
    assert document["c"] == [{"y": [1]}]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (ALIASES, "more than 10000 keys and values"),
        ("[" + "x," * MAX_VALUES + "]", "more than 10000 keys and values"),
        ("&a [*a]", "nested too deeply"),
        ("&a {b: {c: *a}}", "line 1, column 12: nested too deeply"),
        (brackets(MAX_DEPTH + 1), "nested too deeply"),
        (brackets(100_000), "nested too deeply"),
        ("{a: " * 100_000, "nested too deeply"),
        ("- " * 100_000, "nested too deeply"),
        ("? " * 100_000, "nested too deeply"),
        (f"[&a {brackets(MAX_DEPTH - 2)}, [[*a]]]", "nested too deeply"),
        ("*a", "alias 'a' has no anchor"),
        ("[&a 1, &a 2]", "anchor 'a' is defined twice"),
        ("x" * (MAX_CHARACTERS + 1), "text of more than 4096 characters"),
        ("#" * (MAX_BYTES + 1), "larger than 1048576 bytes"),
        ("a: !!bool abc", "line 1, column 4: tag '!!bool' is not supported"),
        ("!!int ''", "tag '!!int'"),
        ("!!float x", "tag '!!float'"),
        ("!!timestamp x", "tag '!!timestamp'"),
        ("!!binary ä", "tag '!!binary'"),
        ("!!map x", "tag '!!map'"),
        ("!!set {a}", "tag '!!set'"),
        ("!mine x", "tag '!mine'"),
        ("!!python/object/apply:os.system ['true']", "tag '!!python/object/apply:os.system'"),
        ("9" * 5000, "is not a finite number up to 2^53"),
        (str(2**53 + 1), "is not a finite number up to 2^53"),
        (":".join(["5"] * 5000), "is not a finite number up to 2^53"),
        ("1" + ":59" * 12 + ".5", "is not a finite number up to 2^53"),
        ("0b" + "1" * 5000, "is not a finite number up to 2^53"),
        ("9.0e+400", "is not a finite number up to 2^53"),
        (".inf", "is not a finite number up to 2^53"),
        ("-.INF", "is not a finite number up to 2^53"),
        (".nan", "is not a finite number up to 2^53"),
        ("0x_", "'0x_' is not a number"),
        ("0b_", "'0b_' is not a number"),
        ('"\\UFFFFFFFF"', "out of range"),
        ('"\\U00110000"', "out of range"),
        ('"\\ud800"', "half of a surrogate pair"),
        ("a\0b", "character 2 is not allowed (U+0000)"),
        ("\ud800", "character 1 is not allowed (U+D800)"),
        (f"%YAML {'1' * 5000}.1\n---\nx", "out of range"),
        ("<<: {a: 1}", "merge keys (<<) are not supported"),
        ("a: 1\na: 2", "line 2, column 1: key 'a' appears twice"),
        ("1: 2", "key 1 is not text"),
        ("{true: 2}", "key True is not text"),
        ("? [a]\n: 1", "key ['a'] is not text"),
        ("a: [1", "line 1, column 6"),
        ("a\n---\nb", "line 2, column 1: a second document"),
        ("\t- a", "cannot start any token"),
    ],
)  # fmt: skip
def test_other_documents_are_rejected_in_one_line(text: str, problem: str) -> None:
    started = time.monotonic()
    with pytest.raises(DocumentError) as caught:
        decode_yaml(text)
    message = str(caught.value)
    assert problem in message
    assert message.isprintable()
    assert len(message) < 300
    assert time.monotonic() - started < 10.0


def test_written_yaml_is_read_as_the_same_values() -> None:
    content = {"a": [1, 2.5, None, True, "text", "1", "2024-01-05", "ä: \n", "="], "b": {"c": []}}
    assert decode_yaml(encode_yaml(content)) == content
    assert decode_yaml(encode_yaml(content, flow=True)) == content
    assert "\n" not in encode_yaml(content["b"], flow=True)


def test_no_other_module_uses_pyyaml() -> None:
    users = {
        path.relative_to(ROOT).as_posix()
        for room in ("kepler_core", "plugins", "profiler", "servers", "config")
        for path in (ROOT / room).rglob("*.py")
        if any(line.split()[:2] in (["import", "yaml"], ["from", "yaml"]) for line in path.read_text().splitlines())
    }
    assert users == {"kepler_core/yaml_documents.py"}


# --- pipelines ---

GOOD = "abs_trainers: [LinearRegressionTrainer]\n"


def pipeline(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        (f"extractor.args.x={'[' * 20_000}", "nested too deeply"),
        (f"extractor.args.x={brackets(900)}", "nested too deeply"),
        (f"extractor.args.x={brackets(MAX_ARGUMENT_DEPTH)}", "args are nested deeper than 16 levels"),
        (f"extractor.args{'.a' * 40}=1", "args are nested deeper than 16 levels"),
        (f"a{'.a' * 30_000}=1", "the path has more than 64 keys"),
        ("abs_trainers.²=x", "'²' is not an index"),
        (f"abs_trainers.{'9' * 5000}=x", "is not an index"),
        (f"abs_trainers.{'9' * 5000}.args.x=1", "is not an index"),
        ("description=!!bool abc", "tag '!!bool' is not supported"),
        ("seed=" + "9" * 5000, "is not a finite number"),
        ("a\nb=[", "--set a b=[: the value is not YAML"),
        ("description\udcff=1", "unknown key"),
        ("description=\udcff", "is not allowed"),
        (f"{'x' * 5000}.y=1", "unknown key"),
    ],
)
def test_settings_are_bounded(tmp_path: Path, setting: str, problem: str) -> None:
    with pytest.raises(PipelineError) as caught:
        load_pipeline(pipeline(tmp_path, GOOD), settings=[setting])
    message = str(caught.value)
    assert problem in message
    assert "\n" not in message
    assert len(message) < 1000


def test_arguments_may_be_nested() -> None:
    """Plugin arguments with the maximum number of nested levels are accepted."""
    args = {"x": decode_yaml(brackets(MAX_ARGUMENT_DEPTH - 1))}
    plugin = {"name": "LinearRegressionTrainer", "args": args}
    assert pipeline_from({"name": "x", "abs_trainers": [plugin]}, "x", resolve=False).abs_trainers[0].args == args


def test_dates_are_text(tmp_path: Path) -> None:
    spec = load_pipeline(pipeline(tmp_path, GOOD + "name: 2024-01-05\ndescription: 2024-13-45\n"))
    assert (spec.name, spec.description) == ("2024-01-05", "2024-13-45")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"third_party": [f"m{number}" for number in range(200_000)]}, f"more than {MAX_THIRD_PARTY} metrics"),
        ({"abs_trainers": [5] * 200_000}, "abs_trainers[0]"),
        ({"abs_trainers": ["LinearRegressionTrainer"] * 200_000}, "is named twice"),
        ({"abs_trainers": ["x" * 500_000]}, "abs_trainers[0]"),
        ({"abs_trainers": [["x" * 500_000]]}, "abs_trainers[0]"),
        ({"feature_groups": ["x" * 500_000]}, "unknown feature group"),
    ],
)
def test_long_lists_and_texts_are_rejected_at_once(changes: dict[str, Any], problem: str) -> None:
    started = time.monotonic()
    with pytest.raises(PipelineError) as caught:
        pipeline_from({"name": "x", "abs_trainers": ["LinearRegressionTrainer"], **changes}, "here")
    assert problem in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert time.monotonic() - started < 10.0
