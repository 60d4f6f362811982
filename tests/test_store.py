"""Publishing: all or nothing, versions kept, whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import zipfile
from pathlib import Path

import pytest

from kepler_core.errors import StoreError
from kepler_core.store import Store
from kepler_core.store.store import zip_bytes

FILES = {"metadata.json": b'{"name":"p"}', "a/b/c.json": b"1"}


def test_publish_read_and_roll_back(tmp_path: Path) -> None:
    store = Store(tmp_path / "new" / "store")
    assert store.pipelines() == []
    assert store.publish("p", FILES) == 1
    reading = store.path("p")
    assert store.publish("p", {"metadata.json": b'{"name":"second"}'}) == 2
    assert (reading / "a/b/c.json").read_bytes() == b"1", "a reader keeps the version that it began with"
    assert not (store.path("p") / "a").exists()
    assert (store.versions("p"), store.current_version("p")) == ([1, 2], 2)
    store.roll_back("p", 1)
    assert store.current_version("p") == 1
    assert (store.root / "p/a/b/c.json").read_bytes() == b"1"
    assert store.publish("p", FILES) == 3, "a number is never used again"
    with pytest.raises(StoreError, match="no version 9"):
        store.roll_back("p", 9)


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/etc", "a\0b", "x" * 101, ".hidden", "ü"])
def test_unsafe_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError, match="is not a name"):
        Store(tmp_path / "s").publish(name, FILES)
    assert not (tmp_path / "s").exists()


def test_files_stay_inside(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="outside"):
        Store(tmp_path).publish("p", {"../../../evil": b"x"})
    assert Store(tmp_path).pipelines() == []
    assert [path.name for path in tmp_path.parent.rglob("evil")] == []


def test_foreign_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "metadata.json").write_text("{}")
    with pytest.raises(StoreError, match="was not published by kepler-model"):
        Store(tmp_path).publish("p", FILES)
    assert (tmp_path / "p" / "metadata.json").read_text() == "{}"


def test_unknown_pipeline_says_what_is_there(tmp_path: Path) -> None:
    Store(tmp_path).publish("mine", FILES)
    with pytest.raises(StoreError, match="there: mine"):
        Store(tmp_path).path("yours")


def test_unwritable(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(StoreError, match="cannot write the store"):
        Store(file).publish("p", FILES)
    with pytest.raises(StoreError, match=r"Read-only|Permission|No such|Not a directory"):
        Store("/proc/no/store").check_writable("p")


def test_zip_is_the_same_bytes(tmp_path: Path) -> None:
    first = zip_bytes({"b": b"2" * 999, "a": b"1"})
    time.sleep(0.01)
    assert first == zip_bytes({"a": b"1", "b": b"2" * 999})
    (tmp_path / "z").write_bytes(first)
    assert zipfile.ZipFile(tmp_path / "z").read("b") == b"2" * 999


def test_two_writers_get_two_versions(tmp_path: Path) -> None:
    numbers: list[int] = []
    threads = [threading.Thread(target=lambda: numbers.append(Store(tmp_path).publish("p", FILES))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(1, 9))
    assert Store(tmp_path).current_version("p") == 8


PUBLISH = textwrap.dedent(
    """
    import os, sys
    from kepler_core.store import Store
    files = {f"f{i}": os.urandom(20000) for i in range(200)}
    files["metadata.json"] = b"{}"
    print("ready", flush=True)
    while True:
        Store(sys.argv[1]).publish("p", files)
    """
)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_killed_while_publishing(tmp_path: Path, how: signal.Signals) -> None:
    """At many moments: the current version is always whole, and the next writer is not disturbed."""
    whole = 0
    for delay in (0.01, 0.1, 0.3, 0.6, 1.0):
        folder = tmp_path / str(delay)
        writer = subprocess.Popen(
            [sys.executable, "-c", PUBLISH, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(delay)
        writer.send_signal(how)
        writer.wait()
        store = Store(folder)
        if store.pipelines():
            whole += 1
            files = list(store.path("p").iterdir())
            assert len(files) == 201
            assert all(file.stat().st_size == (2 if file.name == "metadata.json" else 20000) for file in files)
        before = store.current_version("p") if store.pipelines() else 0
        assert before is not None
        assert store.publish("p", FILES) > before
        assert {path.name for path in store.path("p").rglob("*") if path.is_file()} == {"metadata.json", "c.json"}
        assert not (folder / ".staging").exists()
    assert whole, "no writer came as far as publishing: the test shows nothing"


def test_full_disk(tmp_path: Path) -> None:
    """On a real file system without room: the earlier version stays, and nothing is left behind."""
    script = tmp_path / "fill.py"
    script.write_text(
        textwrap.dedent(
            """
            import sys
            from pathlib import Path
            from kepler_core.errors import StoreError
            from kepler_core.store import Store
            root = Path(sys.argv[1])
            store = Store(root / "store")
            assert store.publish("p", {"metadata.json": b"{}"}) == 1
            try:
                store.publish("p", {"metadata.json": b"{}", "big": b"x" * 4 * 2**20})
            except StoreError as error:
                print(error)
            else:
                sys.exit("it was published")
            assert store.current_version("p") == 1
            assert store.versions("p") == [1]
            assert not (root / "store" / ".staging").exists()
            assert store.publish("p", {"metadata.json": b"{}", "small": b"x"}) == 2
            """
        )
    )
    disk = tmp_path / "disk"
    disk.mkdir()
    probe = ["unshare", "-rm", "sh", "-c", f"mount -t tmpfs -o size=2m none {disk}"]
    if subprocess.run(probe, check=False, capture_output=True).returncode != 0:
        pytest.skip("no permission to mount a small file system here")
    command = f"mount -t tmpfs -o size=2m none {disk} && exec {sys.executable} {script} {disk}"
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", command], check=False, capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    assert "No space left on device; it is as it was" in done.stdout
