"""Test the removal of old versions: the current version and versions in use stay, even if `prune` is killed."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from support.command import kepler

from kepler_core.errors import StoreError
from kepler_core.store import open_store
from kepler_core.store.local import LocalStore
from kepler_core.store.store import Pruned

FILES = {"metadata.json": b"{}", **{f"model{number}.json": b"{}" for number in range(20)}}


def with_versions(folder: Path, number: int, name: str = "p") -> LocalStore:
    store = LocalStore(folder)
    for _ in range(number):
        store.publish(name, FILES)
    return store


def start(script: str, *arguments: str | Path) -> subprocess.Popen[str]:
    """Start a Python process that runs `script`. Its variable `store` is the store in the folder `arguments[0]`."""
    head = "import random, sys, time\nfrom kepler_core.store.local import LocalStore\nstore = LocalStore(sys.argv[1])\n"
    command = [sys.executable, "-c", head + textwrap.dedent(script), *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_the_newest_and_the_current_versions_stay(tmp_path: Path) -> None:
    store = with_versions(tmp_path, 6)
    store.roll_back("p", 2)
    assert store.prune("p", 3, dry_run=True) == Pruned([1, 3], [2, 4, 5, 6], [])
    assert store.versions("p") == [1, 2, 3, 4, 5, 6]
    assert store.prune("p", 3) == Pruned([1, 3], [2, 4, 5, 6], [])
    assert store.prune("p", 1) == Pruned([4, 5], [2, 6], [])
    assert store.versions("p") == [2, 6]
    assert store.current_version("p") == 2
    assert store.publish("p", FILES) == 7
    assert store.prune("p", 1) == Pruned([2, 6], [7], [])
    assert store.snapshot("p").problems() == {}
    with pytest.raises(StoreError, match="has no version 2"):
        store.roll_back("p", 2)


def test_the_command(tmp_path: Path) -> None:
    with_versions(tmp_path, 3, "one")
    with_versions(tmp_path, 2, "two")
    (tmp_path / "foreign").mkdir()
    assert kepler("store", "prune", "-s", tmp_path).returncode == 2
    assert kepler("store", "prune", "-s", tmp_path, "--keep", "0").returncode == 2
    unknown = kepler("store", "prune", "--keep", "1", "-s", tmp_path, "three")
    assert unknown.returncode == 1
    assert "no pipeline 'three'" in unknown.stderr
    done = kepler("store", "prune", "--keep", "1", "-s", tmp_path, "--dry-run", "one")
    assert done.stdout == "one: would remove 1, 2; kept 3\n"
    with_versions(tmp_path, 1, "damaged")
    (tmp_path / "damaged").unlink()
    (tmp_path / "damaged").symlink_to("nowhere")
    done = kepler("store", "prune", "--keep", "1", "-s", tmp_path, "--json")
    assert done.returncode == 1
    results = {result["pipeline"]: result for result in json.loads(done.stdout)}
    assert results["one"]["removed"] == [1, 2]
    assert results["two"] == {
        "pipeline": "two", "dry_run": False, "removed": [1], "kept": [2], "in_use": [], "problem": None,
    }  # fmt: skip
    assert results["foreign"]["removed"] == []
    assert "no pipeline 'damaged'" in results["damaged"]["problem"]


def test_a_store_at_a_url_keeps_its_versions() -> None:
    pytest.importorskip("fsspec")
    store = open_store("memory://prune/models")
    store.publish("p", FILES)
    with pytest.raises(StoreError, match="store in a local folder"):
        store.prune("p", 1)
    assert store.versions("p") == [1]


def test_a_version_that_another_process_reads_stays(tmp_path: Path) -> None:
    store = with_versions(tmp_path, 1)
    reader = start(
        """
        snapshot = store.snapshot("p")
        print("ready", flush=True)
        sys.stdin.readline()
        for name in snapshot.names:
            snapshot.read(name)
        lazy = snapshot.bare()
        del snapshot
        print("read", flush=True)
        sys.stdin.readline()
        """,
        tmp_path,
    )
    assert reader.stdin is not None
    assert reader.stdout is not None
    for word in ("ready", "read"):
        assert reader.stdout.readline() == f"{word}\n"
        store.publish("p", FILES)
        assert store.prune("p", 1, dry_run=True).in_use == [1]
        assert store.prune("p", 1).in_use == [1]
        reader.stdin.write("\n")
        reader.stdin.flush()
    reader.wait(30)
    assert store.prune("p", 1) == Pruned([1], [3], [])


def test_a_version_that_this_process_reads_stays(tmp_path: Path) -> None:
    store = with_versions(tmp_path, 1)
    first, second = store.snapshot("p"), store.snapshot("p", 1)
    other = LocalStore(tmp_path).snapshot("p")
    store.publish("p", FILES)
    for snapshot in ("first", "second", "other"):
        assert store.prune("p", 1).in_use == [1], snapshot
        if snapshot == "first":
            del first
        elif snapshot == "second":
            del second
        else:
            del other
        gc.collect()
    assert store.prune("p", 1).removed == [1]


def test_a_forked_process_does_not_release_the_locks_of_its_parent(tmp_path: Path) -> None:
    store = with_versions(tmp_path, 1)
    snapshots = [store.snapshot("p")]
    store.publish("p", FILES)

    def forked() -> None:
        snapshots.clear()
        gc.collect()
        store.snapshot("p", 1)
        gc.collect()

    child = multiprocessing.get_context("fork").Process(target=forked)
    child.start()
    child.join(30)
    assert child.exitcode == 0
    assert store.prune("p", 1).in_use == [1]


def test_many_snapshots_take_one_descriptor(tmp_path: Path) -> None:
    store = with_versions(tmp_path, 30)
    before = len(os.listdir("/proc/self/fd"))
    snapshots = [store.snapshot("p", version) for version in store.versions("p") for _ in range(10)]
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    assert store.prune("p", 1).in_use == list(range(1, 30))
    del snapshots
    gc.collect()
    assert store.prune("p", 1).kept == [30]


def test_a_store_that_cannot_be_locked_is_read(tmp_path: Path) -> None:
    store = with_versions(tmp_path, 2)
    (tmp_path / ".readers").unlink()
    assert LocalStore(tmp_path).snapshot("p").problems() == {}
    (tmp_path / ".readers").mkdir()
    assert LocalStore(tmp_path).snapshot("p").problems() == {}
    with pytest.raises(StoreError, match="cannot remove versions"):
        store.prune("p", 1)
    assert store.versions("p") == [1, 2]


def test_readers_beside_a_publisher_and_a_pruner(tmp_path: Path) -> None:
    """Readers find all files while other processes publish 100 versions and remove old versions.

    At the end, all versions except the newest can be removed.
    """
    loop = "from pathlib import Path\nprint('ready', flush=True)\nn = 0\nwhile not Path(sys.argv[2]).exists():\n"
    prune = loop + "    n += len(store.prune('p', 1).removed)\n    time.sleep(0.002)\nprint(n)\n"
    read = loop + (
        "    snapshot = store.snapshot('p')\n"
        "    for name in random.sample(sorted(snapshot.names), len(snapshot.names)):\n"
        "        snapshot.read(name)\n"
        "    n += 1\n"
        "print(n)\n"
    )
    store = with_versions(tmp_path / "store", 1)
    end = tmp_path / "end"
    processes = [start(script, tmp_path / "store", end) for script in (prune, read, read, read)]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for _ in range(100):
        store.publish("p", FILES)
    end.touch()
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    removed, *read_counts = map(int, outputs)
    assert removed > 10
    assert min(read_counts) > 0
    store.prune("p", 1)
    assert store.versions("p") == [101]


def test_killed_while_pruning(tmp_path: Path) -> None:
    """If `prune` is killed at any moment, the remaining versions are complete and can be pruned again."""
    script = """
    print("ready", flush=True)
    for keep in range(30, 0, -1):
        store.prune("p", keep)
    """
    interrupted = 0
    with_versions(tmp_path / "template", 30)
    for attempt in range(8):
        folder = tmp_path / str(attempt)
        shutil.copytree(tmp_path / "template", folder, symlinks=True)
        store = LocalStore(folder)
        pruner = start(script, folder)
        assert pruner.stdout is not None
        pruner.stdout.readline()
        time.sleep(random.uniform(0, 0.03))
        pruner.send_signal(signal.SIGKILL)
        pruner.communicate()
        versions = store.versions("p")
        interrupted += 1 < len(versions) < 30
        assert store.current_version("p") == 30
        for version in versions:
            assert store.snapshot("p", version).problems() == {}
        gc.collect()
        assert store.prune("p", 1).kept == [30]
        assert not (folder / ".staging").exists()
    assert interrupted, "no pruner was killed in the middle: the test shows nothing"
