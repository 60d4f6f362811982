"""Test that commands with --json report errors as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.command import kepler


@pytest.mark.parametrize(
    ("arguments", "code", "kind", "words"),
    [
        (("validate", "missing.json"), 1, "RecordingError", "missing.json"),
        (("pipelines", "list", "--wrong"), 2, "UsageError", "--wrong"),
        (("train", "nonsense", "-i", "missing.json", "-s", "store"), 1, "PipelineError", "nonsense"),
        (("store", "list", "-s", "store", "extra", "words"), 2, "UsageError", "extra"),
    ],
)
def test_an_error_is_one_line_of_json(
    tmp_path: Path, arguments: tuple[str, ...], code: int, kind: str, words: str
) -> None:
    plain = kepler(*arguments, cwd=tmp_path)
    done = kepler(*arguments, "--json", cwd=tmp_path)
    assert plain.returncode == done.returncode == code
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    error = json.loads(line)
    assert (error["kind"], error["exit_code"]) == (kind, code)
    assert words in error["error"]
    assert error["error"] in plain.stderr.replace("\n", " ") or kind == "UsageError"


def test_an_error_names_the_key_of_a_document(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("abs_trainers: [LinearRegressionTrainer]\nvalidation: {folds: many}\n")
    done = kepler("train", "p.yaml", "-i", "missing.json", "-s", "store", "--json", cwd=tmp_path)
    error = json.loads(done.stderr)
    assert (error["document"], error["path"]) == ("p.yaml", ["validation", "folds"])
