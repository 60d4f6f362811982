"""Test that the online trainer does not start with invalid values of `--keep-versions` or KEEP_VERSIONS."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("fsspec")

from support.command import kepler


@pytest.mark.parametrize(
    ("store", "arguments", "value", "message"),
    [
        ("memory://prune/online", ["--keep-versions", "2"], None, "needs a model store in a local folder"),
        ("memory://prune/online", [], "2", "needs a model store in a local folder"),
        ("store", [], "0", "KEEP_VERSIONS: 0 is not a whole number above 0"),
        ("store", [], "2.5", "KEEP_VERSIONS: 2.5 is not a whole number above 0"),
        ("store", [], "all", "KEEP_VERSIONS: 'all' is not a number"),
    ],
)
def test_wrong_settings_of_the_online_trainer(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    store: str,
    arguments: list[str],
    value: str | None,
    message: str,
) -> None:
    if value is not None:
        monkeypatch.setenv("KEEP_VERSIONS", value)
    command = ["serve", "online-trainer", "--server", "http://127.0.0.1:9", "--state", str(tmp_path / "state")]
    done = kepler(*command, "--store", store, *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
