"""Tests of the command `plugins new`: it refuses bad names and overwrites no files."""

from __future__ import annotations

import pytest
from support.command import kepler


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("trainer", "My_Trainer"), "small letters, digits and dashes"),
        (("trainer", "linear-regression"), "kepler-core:LinearRegressionTrainer already has the name"),
        (("isolator", "min"), "kepler-core:MinIdleIsolator already has the name 'min'"),
        (("reactor", "mine"), "reactor"),
    ],
)
def test_new_refuses_bad_names(tmp_path, arguments, message):
    done = kepler("plugins", "new", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_new_overwrites_nothing(tmp_path):
    assert kepler("plugins", "new", "hook", "mine", cwd=tmp_path).returncode == 0
    contents = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert {path.name for path in contents} >= {"pyproject.toml", "tox.ini", "ci.yml", "test_mine.py", "__init__.py"}
    done = kepler("plugins", "new", "hook", "mine", cwd=tmp_path)
    assert done.returncode == 2
    assert "already exists" in done.stderr
    assert {path: path.read_bytes() for path in contents} == contents
