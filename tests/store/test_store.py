"""Tests of local stores: atomic publishing, versions, and damaged files."""

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
from kepler_core.store import local, open_store
from kepler_core.store.layout import zip_bytes
from kepler_core.store.local import LocalStore

FILES = {"metadata.json": b'{"name":"p"}', "a/b/c.json": b"1"}


def test_publish_read_and_roll_back(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "new" / "store")
    assert store.pipelines() == []
    assert store.publish("p", FILES) == 1
    folder = store.path("p")
    assert store.publish("p", {"metadata.json": b'{"name":"second"}'}) == 2
    assert (folder / "a/b/c.json").read_bytes() == b"1", "a reader keeps its version"
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
        LocalStore(tmp_path / "s").publish(name, FILES)
    assert not (tmp_path / "s").exists()


def test_files_outside_of_the_pipeline_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="outside"):
        LocalStore(tmp_path).publish("p", {"../../../evil": b"x"})
    assert LocalStore(tmp_path).pipelines() == []
    assert [path.name for path in tmp_path.parent.rglob("evil")] == []


def test_foreign_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "metadata.json").write_text("{}")
    with pytest.raises(StoreError, match="was not published by kepler-model"):
        LocalStore(tmp_path).publish("p", FILES)
    assert (tmp_path / "p" / "metadata.json").read_text() == "{}"


def test_the_error_for_an_unknown_pipeline_lists_the_others(tmp_path: Path) -> None:
    LocalStore(tmp_path).publish("mine", FILES)
    with pytest.raises(StoreError, match="available: mine"):
        LocalStore(tmp_path).path("yours")


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(StoreError, match="cannot write the store"):
        LocalStore(file).publish("p", FILES)
    with pytest.raises(StoreError, match=r"Read-only|Permission|No such|Not a directory"):
        LocalStore("/proc/no/store").check_writable("p")


def test_zips_are_reproducible(tmp_path: Path) -> None:
    first = zip_bytes({"b": b"2" * 999, "a": b"1"})
    time.sleep(0.01)
    assert first == zip_bytes({"a": b"1", "b": b"2" * 999})
    (tmp_path / "z").write_bytes(first)
    assert zipfile.ZipFile(tmp_path / "z").read("b") == b"2" * 999


def test_concurrent_writers_get_different_versions(tmp_path: Path) -> None:
    numbers: list[int] = []
    threads = [
        threading.Thread(target=lambda: numbers.append(LocalStore(tmp_path).publish("p", FILES))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(1, 9))
    assert LocalStore(tmp_path).current_version("p") == 8


PUBLISH = textwrap.dedent(
    """
    import os, sys
    from kepler_core.store.local import LocalStore
    files = {f"f{i}": os.urandom(20000) for i in range(200)}
    files["metadata.json"] = b"{}"
    print("ready", flush=True)
    while True:
        LocalStore(sys.argv[1]).publish("p", files)
    """
)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_killed_while_publishing(tmp_path: Path, how: signal.Signals) -> None:
    """If a process is killed while it publishes a pipeline, the pipeline's current version is complete.

    The next process can publish a version.
    """
    published = 0
    # If `after_the_first` is true, the delay before the kill begins only after the first version was published. So this
    # version exists even if the machine is slow.
    for delay, after_the_first in ((0.01, False), (0.1, False), (0.3, False), (0.01, True), (0.2, True)):
        folder = tmp_path / f"{delay}-{after_the_first}"
        writer = subprocess.Popen(
            [sys.executable, "-c", PUBLISH, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert writer.stdout is not None
        writer.stdout.readline()
        deadline = time.monotonic() + 60
        while after_the_first and not LocalStore(folder).pipelines() and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(delay)
        writer.send_signal(how)
        writer.wait()
        store = LocalStore(folder)
        if store.pipelines():
            published += 1
            files = list(store.path("p").iterdir())
            assert len(files) == 202, "one of them is the manifest"
            assert store.snapshot("p").problems() == {}
        before = store.current_version("p") if store.pipelines() else 0
        assert before is not None
        assert store.publish("p", FILES) > before
        assert {path.name for path in store.path("p").rglob("*") if path.is_file()} == {
            "metadata.json",
            "c.json",
            "manifest.json",
        }
        assert not (folder / ".staging").exists()
    assert published >= 2, "no writer was killed after a version: the test shows nothing"


def test_full_disk(tmp_path: Path) -> None:
    """If the disk is full while a version is published, the earlier version stays and no other files are left."""
    script = tmp_path / "fill.py"
    script.write_text(
        textwrap.dedent(
            """
            import sys
            from pathlib import Path
            from kepler_core.errors import StoreError
            from kepler_core.store.local import LocalStore
            root = Path(sys.argv[1])
            store = LocalStore(root / "store")
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
    assert "No space left on device; the store is as it was" in done.stdout


def damaged(tmp_path: Path, change: str) -> LocalStore:
    """Return a store with a pipeline in which one file was damaged. `change` names the kind of damage."""
    store = LocalStore(tmp_path)
    store.publish("p", {"metadata.json": b"{}", "a/b/c.json": b"0123456789"})
    file = store.path("p") / "a/b/c.json"
    if change == "flipped":
        file.write_bytes(b"0123456788")
    elif change == "truncated":
        file.write_bytes(b"01234")
    elif change == "missing":
        file.unlink()
    elif change == "extra":
        (file.parent / "d.json").write_bytes(b"")
    return store


def test_undamaged_files(tmp_path: Path) -> None:
    snapshot = damaged(tmp_path, "").snapshot("p")
    snapshot.check_complete()
    assert snapshot.problems() == {}
    assert dict(snapshot.read_many(sorted(snapshot.names)))["a/b/c.json"] == b"0123456789"


@pytest.mark.parametrize(
    ("change", "name", "why"),
    [
        ("flipped", "a/b/c.json", "does not have the SHA-256 digest"),
        ("truncated", "a/b/c.json", "has 5 bytes, the manifest says 10"),
        ("missing", "a/b/c.json", "no file a/b/c.json"),
        ("extra", "a/b/d.json", "is not in the manifest"),
    ],
)
def test_damaged_files_are_reported(tmp_path: Path, change: str, name: str, why: str) -> None:
    snapshot = damaged(tmp_path, change).snapshot("p")
    with pytest.raises(StoreError, match=why) as caught:
        snapshot.read(name)
    assert "\n" not in str(caught.value)
    assert list(snapshot.problems()) == [name]
    assert snapshot.read("metadata.json") == b"{}", "other files can be read"
    if change == "missing":
        with pytest.raises(StoreError, match="half copied"):
            snapshot.check_complete()


@pytest.mark.parametrize(
    "manifest", [b"", b"[]", b"[" * 5000, b'{"layout":1}', b'{"layout":2,"files":{}}', b'{"layout":1,"files":{"a":1}}']
)
def test_damaged_manifest(tmp_path: Path, manifest: bytes) -> None:
    store = damaged(tmp_path, "")
    (store.path("p") / "manifest.json").write_bytes(manifest)
    with pytest.raises(StoreError, match=r"manifest\.json"):
        store.snapshot("p")


def test_a_published_version_without_a_manifest_is_damaged(tmp_path: Path) -> None:
    store = damaged(tmp_path, "")
    (store.path("p") / "manifest.json").unlink()
    with pytest.raises(StoreError, match=r"no manifest\.json"):
        store.snapshot("p")


def test_snapshots_of_earlier_versions(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    for number in (b"1", b"2"):
        store.publish("p", {"metadata.json": b"{}", "n": number})
    assert [store.snapshot("p", version).read("n") for version in (1, 2, None)] == [b"1", b"2", b"2"]
    assert store.snapshot("p", 1).version == 1
    with pytest.raises(StoreError, match=r"no version 3 \(kept: 1, 2\)"):
        store.snapshot("p", 3)


def test_the_signature_changes_with_the_current_version(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.publish("p", FILES)
    first = store.signature("p")
    assert store.signature("p") == first
    store.publish("p", FILES)
    assert store.signature("p") != first
    store.roll_back("p", 1)
    assert store.signature("p") == first


def test_file_url(tmp_path: Path) -> None:
    LocalStore(tmp_path / "a b").publish("p", FILES)
    assert open_store(f"file://{tmp_path}/a%20b").pipelines() == ["p"]


def test_an_interruption_just_after_a_version_became_current(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a publisher is interrupted after its version became current, the cleanup does not remove this version."""
    store = LocalStore(tmp_path)
    store.publish("p", FILES)
    flush = local.flush_folder

    def interrupted_flush(folder: Path) -> None:
        flush(folder)
        if folder == tmp_path:
            raise KeyboardInterrupt

    monkeypatch.setattr(local, "flush_folder", interrupted_flush)
    with pytest.raises(KeyboardInterrupt):
        store.publish("p", FILES)
    assert store.current_version("p") == 2
    assert store.snapshot("p").problems() == {}
