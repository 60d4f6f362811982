"""Tests that remote stores stay complete if publishers fail, run at the same time, or are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from typing import Any

import pytest
from support.remote_store import FILES, file_names

from kepler_core.errors import StoreError
from kepler_core.store import open_store
from kepler_core.store.remote import CURRENT, RemoteStore


def test_a_failed_publisher_leaves_no_files(url: str) -> None:
    store = open_store(url)
    store.publish("p", FILES)
    before = file_names(url)
    with pytest.raises(StoreError):
        store.publish("p", {**FILES, "bad": object()})  # type: ignore[dict-item]
    with pytest.raises(StoreError, match="outside"):
        store.publish("p", {"../../evil": b""})
    assert (file_names(url), store.current_version("p")) == (before, 1)


def test_concurrent_publishers(url: str) -> None:
    """If several threads publish a pipeline at once, each gets its own version, with only the thread's own files."""
    numbers: list[int] = []

    def publish(publisher: int) -> None:
        content = str(publisher).encode()
        number = open_store(url).publish("p", {"metadata.json": b"{}", **{f"f{i}": content for i in range(10)}})
        numbers.append(number)

    threads = [threading.Thread(target=publish, args=(publisher,)) for publisher in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(1, 7))
    store = open_store(url)
    assert store.versions("p") == sorted(numbers)
    for number in numbers:
        snapshot = store.snapshot("p", number)
        assert snapshot.problems() == {}
        assert len({snapshot.read(f"f{i}") for i in range(10)}) == 1


def test_readers_while_publishing(url: str) -> None:
    store = open_store(url)
    store.publish("p", {"metadata.json": b"{}", "a": b"0", "b": b"0"})
    stop = threading.Event()
    problems: list[BaseException | str] = []
    reads = 0

    def read() -> None:
        nonlocal reads
        reader = open_store(url)
        while not stop.is_set():
            try:
                snapshot = reader.snapshot("p")
                if snapshot.read("a") != snapshot.read("b"):
                    problems.append("two versions in one snapshot")
                reads += 1
            except BaseException as error:
                problems.append(error)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(1, 8):
        content = str(number).encode()
        store.publish("p", {"metadata.json": b"{}", "a": content, "b": content})
    stop.set()
    for thread in threads:
        thread.join()
    assert problems == []
    assert reads


class NoAnswer(RemoteStore):
    """A store whose server executes all writes, but does not answer a write to a path that contains `lost`."""

    lost = CURRENT

    @property
    def _fs(self) -> Any:
        filesystem = super()._fs
        if not hasattr(filesystem, "answered"):
            filesystem.answered = filesystem.pipe_file

            def pipe_file(path: str, value: bytes, **more: Any) -> None:
                filesystem.answered(path, value, **more)
                if f"/{self.lost}" in path:
                    raise OSError("the response is lost")

            filesystem.pipe_file = pipe_file
        return filesystem


def test_a_lost_response(url: str) -> None:
    """The store stays complete if the response to a write is lost.

    First, the response to the write of `.current` is lost. This write makes version 2 current. Then, the response to
    the write of `3.json` is lost. This write reserves the version number 3.
    """
    open_store(url).publish("p", FILES)
    with pytest.raises(StoreError, match="cannot make version 2 of p current"):
        NoAnswer(url).publish("p", FILES)
    store = open_store(url)
    assert (store.versions("p"), store.current_version("p")) == ([1, 2], 2)
    assert store.snapshot("p").problems() == {}
    claims = NoAnswer(url)
    claims.lost = ".versions/p/3.json"
    assert claims.publish("p", FILES) == 3
    assert store.versions("p") == [1, 2, 3]
    assert store.snapshot("p").problems() == {}


class NoExclusiveWrites(RemoteStore):
    """A store whose server overwrites existing objects, even in an exclusive write."""

    @property
    def _fs(self) -> Any:
        filesystem = super()._fs
        if not hasattr(filesystem, "plain"):
            plain = filesystem.plain = filesystem.pipe_file
            filesystem.pipe_file = lambda path, value, mode="overwrite", **more: plain(path, value, **more)
        return filesystem


def test_without_exclusive_writes(url: str) -> None:
    store = NoExclusiveWrites(url)
    assert [store.publish("p", FILES), store.publish("p", FILES)] == [1, 2]
    assert store.snapshot("p").problems() == {}


PUBLISH = textwrap.dedent(
    """
    import os, sys
    from kepler_core.store import open_store
    files = {f"f{i}": os.urandom(2000) for i in range(60)}
    files["metadata.json"] = b"{}"
    store = open_store(sys.argv[1])
    print("ready", flush=True)
    while True:
        store.publish("p", files)
    """
)


def test_killed_while_publishing(s3: str) -> None:
    """If a process is killed while it publishes a pipeline, the pipeline's current version is complete.

    The next process can publish a version.
    """
    published = 0
    # If `after_the_first` is true, the delay before the kill begins only after the first version was published. So this
    # version exists even if the machine is slow.
    for delay, after_the_first in ((0.05, False), (0.5, False), (0.05, True), (0.3, True)):
        url = f"{s3}/{delay}-{after_the_first}"
        writer = subprocess.Popen([sys.executable, "-c", PUBLISH, url], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        writer.stdout.readline()
        deadline = time.monotonic() + 60
        while after_the_first and not open_store(url).pipelines() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        store = open_store(url)
        if store.pipelines():
            published += 1
            for version in (None, *store.versions("p")):
                snapshot = store.snapshot("p", version)
                assert len(snapshot.names) == 62
                assert snapshot.problems() == {}
        before = max(store.versions("p"), default=0)
        assert store.publish("p", FILES) == before + 1
        assert store.snapshot("p").names == {*FILES, "manifest.json"}
    assert published >= 2, "no publisher was killed after a version: the test shows nothing"


def test_a_store_after_a_fork(s3: str) -> None:
    store = open_store(s3)
    store.publish("p", FILES)
    script = textwrap.dedent(
        """
        import os, signal, sys
        from kepler_core.store import open_store
        store = open_store(sys.argv[1])
        print(store.pipelines(), flush=True)
        child = os.fork()
        if child == 0:
            signal.alarm(30)
            print(store.pipelines(), store.snapshot("p").read("a/b/c.json"), flush=True)
            os._exit(0)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script, s3], capture_output=True, text=True, timeout=60, env=os.environ, check=False
    )
    assert (done.returncode, done.stdout) == (0, "['p']\n['p'] b'1'\n"), done.stderr
