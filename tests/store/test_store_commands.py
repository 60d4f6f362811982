"""Tests of the commands `kepler-model store …`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support.paths import SHARED

from kepler_core.store.layout import zip_bytes
from kepler_core.store.local import LocalStore

MODEL = "rapl-sysfs/AbsPower/BPFOnly/SGDRegressorTrainer_0.zip"
FILES = {
    "metadata.json": b'{"name":"own","last_update_time":"2024-08-14 07:12:37"}',
    MODEL: zip_bytes({"metadata.json": b"{}"}),
}


def run(*arguments: str | Path, code: int = 0, text: str = "") -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run(
        [sys.executable, "-m", "kepler_core", "store", *map(str, arguments)],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )
    errors = done.stderr.decode()
    assert done.returncode == code, errors
    assert "Traceback" not in errors
    assert text in errors
    if code == 1 and text:
        assert len(errors.splitlines()) == 1
    return done


def answer(*arguments: str | Path, code: int = 0) -> object:
    return json.loads(run(*arguments, "--json", code=code).stdout)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with two versions of one pipeline."""
    store = LocalStore(tmp_path / "store")
    store.publish("own", FILES)
    store.publish("own", {**FILES, MODEL.replace("_0", "_1"): b"x"})
    return tmp_path / "store"


def test_list(store: Path, tmp_path: Path) -> None:
    (store / "broken").mkdir()
    rows = answer("list", "-s", store)
    assert isinstance(rows, list)
    assert [(row["pipeline"], row["version"], row["models"], row["updated"]) for row in rows] == [
        ("broken", None, None, None),
        ("own", 2, 2, "2024-08-14 07:12:37"),
    ]
    assert "no metadata.json" in rows[0]["problem"]
    shown = run("list", "-s", store).stdout.decode()
    assert "no metadata.json" in shown
    assert "2024-08-14 07:12:37" in shown
    assert answer("list", "-s", tmp_path / "absent") == []
    assert b"no pipelines" in run("list", "-s", tmp_path / "absent").stdout
    assert not (tmp_path / "absent").exists(), "list creates no files"


def test_history_and_rollback(store: Path) -> None:
    def history() -> list[tuple[int, bool, int]]:
        versions = answer("history", "own", "-s", store)["versions"]
        assert isinstance(versions, list)
        return [(row["version"], row["current"], row["models"]) for row in versions]

    assert history() == [(1, False, 1), (2, True, 2)]
    assert b"current" in run("history", "own", "-s", store).stdout
    assert answer("rollback", "own", "-s", store) == {"pipeline": "own", "version": 1, "before": 2}
    assert history() == [(1, True, 1), (2, False, 2)]
    run("rollback", "own", "-s", store, code=1, text="no version before the current version, 1")
    run("rollback", "own", "7", "-s", store, code=1, text="no version 7 (kept: 1, 2)")
    run("rollback", "own", "0", "-s", store, code=2)
    run("rollback", "own", "2", "-s", store)
    assert history() == [(1, False, 1), (2, True, 2)]
    run("history", "other", "-s", store, code=1, text="available: own")


def test_no_rollback_to_a_damaged_version(store: Path) -> None:
    (store / ".versions" / "own" / "1" / MODEL).unlink()
    run("rollback", "own", "-s", store, code=1, text="half copied")
    assert LocalStore(store).current_version("own") == 2


def test_a_pipeline_that_kepler_model_did_not_publish(store: Path) -> None:
    (store / "theirs").mkdir()
    (store / "theirs" / "metadata.json").write_bytes(b"{}")
    assert b"no versions" in run("history", "theirs", "-s", store).stdout
    assert answer("history", "theirs", "-s", store) == {"versions": [], "decisions": []}
    run("rollback", "theirs", "-s", store, code=1, text="was not published by kepler-model")
    assert b"theirs: no manifest" in run("verify", "theirs", "-s", store).stdout


def test_export(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "out.zip"
    run("export", "own", "-s", store, "-o", file)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    with zipfile.ZipFile(file) as archive:
        assert {"metadata.json", "manifest.json", MODEL} <= set(archive.namelist()), "no folder around the pipeline"
    before = file.read_bytes()
    run("export", "own", "--version", "1", "-s", store, "-o", file, code=2, text="--force replaces it")
    assert file.read_bytes() == before
    assert run("export", "own", "-s", store, "-o", "-").stdout == before
    run("export", "own", "--version", "1", "-s", store, "-o", file, "--force")
    assert file.read_bytes() != before
    run("export", "own", "--version", "9", "-s", store, "-o", tmp_path / "no.zip", code=1, text="no version 9")
    assert not (tmp_path / "no.zip").exists()
    run("export", "own", "-s", store, "-o", tmp_path / "no" / "no.zip", code=1, text="No such file")


def test_import(store: Path, tmp_path: Path) -> None:
    file, other = tmp_path / "out.zip", tmp_path / "other"
    run("export", "own", "--version", "1", "-s", store, "-o", file)
    assert answer("import", file, "-s", other) == {"pipeline": "own", "version": 1, "models": 1}
    assert b"yours: version 1 with 1 models" in run("import", file, "--name", "yours", "-s", other).stdout
    assert answer("import", store / "own", "-s", other) == {"pipeline": "own", "version": 2, "models": 2}
    snapshot = LocalStore(other).snapshot("yours")
    assert {name: snapshot.read(name) for name in FILES} == FILES
    run("import", file, "--name", "../x", "-s", other, code=2, text="--name")


def test_import_is_all_or_nothing(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "bad.zip"
    file.write_bytes(zip_bytes({**FILES, "manifest.json": b"{}"}))
    run("import", file, "-s", tmp_path / "new", code=1, text="manifest.json")
    run("import", tmp_path / "nothing.zip", "-s", tmp_path / "new", code=1, text="No such file")
    run("import", "http://127.0.0.1:1/x.zip", "-s", tmp_path / "new", code=1, text="refused")
    assert not (tmp_path / "new").exists()


def test_verify(store: Path) -> None:
    assert b"own version 2: ok" in run("verify", "-s", store).stdout
    assert run("verify", "--all-versions", "-s", store).stdout.count(b": ok") == 2
    file = store / ".versions" / "own" / "1" / MODEL
    content = bytearray(file.read_bytes())
    content[20] ^= 1
    file.write_bytes(content)
    run("verify", "own", "-s", store)
    done = run("verify", "own", "--all-versions", "-s", store, code=1)
    assert MODEL in done.stdout.decode()
    rows = answer("verify", "--all-versions", "-s", store, code=1)
    assert isinstance(rows, list)
    assert [(row["version"], row["state"], row["files"]) for row in rows] == [(1, "damaged", [MODEL]), (2, "ok", [])]
    run("verify", "nobody", "-s", store, code=1, text="available: own")
    (store / "own" / "manifest.json").write_bytes(b"")
    assert b"damaged" in run("verify", "-s", store, code=1).stdout
    assert "manifest.json" in run("list", "-s", store).stdout.decode()


@pytest.mark.shared_data
def test_public_models(tmp_path: Path) -> None:
    folder = SHARED / "data" / "model_db" / "ec2-0.7.11"
    if not folder.is_dir():
        pytest.skip("the public models (../shared/data/model_db) are not here")
    first, second = tmp_path / "first", tmp_path / "second"
    report = answer("import", folder, "-s", first)
    assert isinstance(report, dict)
    assert report["models"] == len(list(folder.rglob("*_?.zip")))
    run("export", "ec2-0.7.11", "-s", first, "-o", tmp_path / "x.zip")
    run("import", tmp_path / "x.zip", "-s", second)
    left, right = LocalStore(first).snapshot("ec2-0.7.11"), LocalStore(second).snapshot("ec2-0.7.11")
    assert left.manifest == right.manifest
    assert left.names == right.names
    run("verify", "-s", second)


def test_help() -> None:
    for command in ("list", "history", "rollback", "import", "export", "verify"):
        assert b"--store DIR|URL" in run(command, "--help").stdout
