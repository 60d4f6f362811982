"""Remote stores: in memory, on a real S3 server in another process, on a plain web server."""

from __future__ import annotations

import functools
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kepler_core.errors import MissingExtraError, StoreError
from kepler_core.store import Store, open_store, remote
from kepler_core.store.archive import read_pipeline
from kepler_core.store.local import LocalStore
from kepler_core.store.remote import CURRENT, RemoteStore

fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")

FILES = {"metadata.json": b'{"name":"p"}', "a/b/c.json": b"1", "empty": b""}
SECRET = "a-very-secret-key"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """An S3 server in a process of its own."""
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    pytest.importorskip("moto.server", reason="moto[server] is not installed")
    port = free_port()
    command = [sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert server.poll() is None, "the S3 server ended"
                time.sleep(0.05)
        else:
            pytest.fail("the S3 server does not answer")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def s3(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A URL in a new bucket."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    bucket = f"b{uuid.uuid4().hex}"
    fsspec.filesystem("s3", skip_instance_cache=True).mkdir(bucket)
    return f"s3://{bucket}/models"


@pytest.fixture(params=["memory", "s3", "s3 without folder"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}/models"
    url: str = request.getfixturevalue("s3")
    return url if request.param == "s3" else url.removesuffix("/models")


def put(url: str, name: str, content: bytes) -> None:
    """As somebody else would."""
    filesystem, root = fsspec.core.url_to_fs(url, skip_instance_cache=True)
    filesystem.pipe_file(f"{root}/{name}", content)


def names(url: str) -> set[str]:
    filesystem, root = fsspec.core.url_to_fs(url, skip_instance_cache=True)
    filesystem.invalidate_cache()
    return {name.removeprefix(root + "/") for name in filesystem.find(root)}


SECOND = {"metadata.json": b'{"name":"second"}'}


def test_a_check_of_a_new_store_writes_nothing_that_stays(url: str) -> None:
    store = open_store(url)
    assert isinstance(store, RemoteStore)
    assert store.pipelines() == []
    store.check_writable("p")
    assert names(url) == set()


def test_publish_and_read(url: str) -> None:
    store = open_store(url)
    assert store.publish("p", FILES) == 1
    snapshot, signature = store.snapshot("p"), store.signature("p")
    assert store.publish("p", SECOND) == 2
    assert {name: snapshot.read(name) for name in FILES} == FILES, "a reader keeps its version"
    assert snapshot.names == {*FILES, "manifest.json"}
    assert open_store(url).snapshot("p").read("metadata.json") == SECOND["metadata.json"]
    assert (store.pipelines(), store.versions("p"), store.current_version("p")) == (["p"], [1, 2], 2)
    assert store.signature("p") != signature


def test_roll_back(url: str) -> None:
    store = open_store(url)
    assert store.publish("p", FILES) == 1
    signature = store.signature("p")
    assert store.publish("p", SECOND) == 2
    store.roll_back("p", 1)
    assert (store.current_version("p"), store.signature("p")) == (1, signature)
    assert dict(store.snapshot("p").read_many(sorted(FILES))) == FILES
    assert store.snapshot("p", 2).read_json("metadata.json") == {"name": "second"}
    assert store.publish("p", FILES) == 3, "a number is never used again"
    for missing in (store.roll_back, store.snapshot):
        with pytest.raises(StoreError, match=r"no version 9 \(kept: 1, 2, 3\)"):
            missing("p", 9)
    with pytest.raises(StoreError, match=r"no pipeline 'q' \(there: p\)"):
        store.snapshot("q")


def test_another_publisher_is_seen(url: str) -> None:
    """Listings are not cached: a store that is open sees what others publish."""
    reader, writer = open_store(url), open_store(url)
    assert reader.pipelines() == []
    for number in (1, 2):
        writer.publish("p", {**FILES, f"n{number}": b""})
        assert reader.pipelines() == ["p"]
        assert reader.current_version("p") == number
        assert f"n{number}" in reader.snapshot("p").names


def test_foreign_pipelines_are_read_as_they_are(url: str) -> None:
    put(url, "theirs/metadata.json", b"{}")
    put(url, "theirs/rapl-sysfs/AbsPower/BPFOnly/X_0.zip", b"zip")
    put(url, ".hidden/metadata.json", b"{}")
    store = open_store(url)
    store.publish("ours", FILES)
    assert store.pipelines() == ["ours", "theirs"]
    snapshot = store.snapshot("theirs")
    assert (snapshot.version, snapshot.manifest, store.versions("theirs")) == (None, None, [])
    assert store.current_version("theirs") is None
    assert snapshot.read("rapl-sysfs/AbsPower/BPFOnly/X_0.zip") == b"zip"
    before = store.signature("theirs")
    assert store.signature("theirs") == before
    put(url, "theirs/metadata.json", b'{"changed": 1}')
    assert store.signature("theirs") != before
    for change in (lambda: store.publish("theirs", FILES), lambda: store.check_writable("theirs")):
        with pytest.raises(StoreError, match="was not published by kepler-model"):
            change()
    assert store.snapshot("theirs").read("metadata.json") == b'{"changed": 1}'


def test_damage_is_found(url: str) -> None:
    store = open_store(url)
    store.publish("p", FILES)
    folder = store.snapshot("p").where.removeprefix(url + "/")
    put(url, f"{folder}/a/b/c.json", b"2")
    put(url, f"{folder}/extra", b"")
    snapshot = store.snapshot("p")
    assert set(snapshot.problems()) == {"a/b/c.json", "extra"}
    put(url, ".current/p", b'{"version":1,"folder":"../../elsewhere"}')
    with pytest.raises(StoreError, match="is damaged"):
        store.snapshot("p")
    put(url, ".current/p", b"{")
    with pytest.raises(StoreError, match="is damaged"):
        store.signature("p")


def test_a_failed_publisher_leaves_nothing(url: str) -> None:
    store = open_store(url)
    store.publish("p", FILES)
    before = names(url)
    with pytest.raises(StoreError):
        store.publish("p", {**FILES, "bad": object()})  # type: ignore[dict-item]
    with pytest.raises(StoreError, match="outside"):
        store.publish("p", {"../../evil": b""})
    assert (names(url), store.current_version("p")) == (before, 1)


def test_publishers_at_once(url: str) -> None:
    """Each gets a number of its own, and the files of a version are one publisher's."""
    numbers: list[int] = []

    def publish(who: int) -> None:
        content = str(who).encode()
        number = open_store(url).publish("p", {"metadata.json": b"{}", **{f"f{i}": content for i in range(10)}})
        numbers.append(number)

    threads = [threading.Thread(target=publish, args=(who,)) for who in range(6)]
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
    """As a server that does a write, and whose answer to it is lost."""

    lost = CURRENT

    @property
    def _fs(self) -> Any:
        made = super()._fs
        if not hasattr(made, "answered"):
            made.answered = made.pipe_file

            def pipe_file(path: str, value: bytes, **more: Any) -> None:
                made.answered(path, value, **more)
                if f"/{self.lost}" in path:
                    raise OSError("the answer is lost")

            made.pipe_file = pipe_file
        return made


def test_a_lost_answer(url: str) -> None:
    """The store is whole, whichever it was; what was claimed is claimed once."""
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
    """As a store whose server takes an exclusive write for a plain one."""

    @property
    def _fs(self) -> Any:
        made = super()._fs
        if not hasattr(made, "plain"):
            made.plain = made.pipe_file
            made.pipe_file = lambda path, value, mode="overwrite", **more: made.plain(path, value, **more)
        return made


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
    """At many moments: the current version is whole, and the next publisher is not disturbed."""
    whole = 0
    # however slow this machine is: the last two are killed after the first version, in the next ones
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
            whole += 1
            for version in (None, *store.versions("p")):
                snapshot = store.snapshot("p", version)
                assert len(snapshot.names) == 62
                assert snapshot.problems() == {}
        before = max(store.versions("p"), default=0)
        assert store.publish("p", FILES) == before + 1
        assert store.snapshot("p").names == {*FILES, "manifest.json"}
    assert whole >= 2, "no writer came as far as publishing: the test shows nothing"


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


def test_commands(s3: str, tmp_path: Path) -> None:
    def run(*arguments: str, code: int = 0) -> str:
        command = [sys.executable, "-m", "kepler_core", "store", *arguments, "-s", s3]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        return done.stdout

    model = "rapl-sysfs/AbsPower/BPFOnly/SGDRegressorTrainer_0.zip"
    LocalStore(tmp_path / "local").publish("mine", {"metadata.json": b"{}", model: b"zip"})
    for version in (1, 2):
        expected = f"mine: version {version} with 1 models\n"
        assert run("import", str(tmp_path / "local" / "mine"), "--name", "mine") == expected
    assert run("rollback", "mine") == "mine: version 1 is current (before: 2)\n"
    assert run("verify", "--all-versions") == "mine version 1: ok\nmine version 2: ok\n"
    run("export", "mine", "-o", str(tmp_path / "x.zip"))
    assert read_pipeline(str(tmp_path / "x.zip")) == ("mine", {"metadata.json": b"{}", model: b"zip"})
    assert [row["current"] for row in json.loads(run("history", "mine", "--json"))["versions"]] == [True, False]
    folder = open_store(s3).snapshot("mine").where.removeprefix(s3 + "/")
    put(s3, f"{folder}/{model}", b"zap")
    assert model in run("verify", code=1)
    assert "damaged" in json.loads(run("verify", "--json", code=1))[0]["state"]


def one_line(error: BaseException, url: str) -> bool:
    text = str(error)
    return "\n" not in text and url in text and SECRET not in text


def test_nobody_there(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    store = open_store(s3)
    for ask in (
        store.pipelines,
        lambda: store.snapshot("p"),
        lambda: store.signature("p"),
        lambda: store.versions("p"),
        lambda: store.publish("p", FILES),
        lambda: store.roll_back("p", 1),
        lambda: store.check_writable("p"),
    ):
        with pytest.raises(StoreError, match="Could not connect") as caught:
            ask()
        assert one_line(caught.value, s3)


def test_a_silent_server(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "READ_TIMEOUT_SECONDS", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(100)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(StoreError, match=r"(?i)timeout") as caught:
            open_store(s3).pipelines()
    assert one_line(caught.value, s3)


def test_no_bucket(s3: str) -> None:
    url = "s3://no-such-bucket-here/models"
    store = open_store(url)
    for ask in (
        store.pipelines,
        lambda: store.snapshot("p"),
        lambda: store.signature("p"),
        lambda: store.versions("p"),
        lambda: store.publish("p", FILES),
        lambda: store.check_writable("p"),
    ):
        with pytest.raises(StoreError, match="bucket") as caught:
            ask()
        assert one_line(caught.value, url)


def test_no_credentials(s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(key)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(StoreError, match="credentials") as caught:
        open_store(s3).pipelines()
    assert one_line(caught.value, s3)


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/etc", "a\0b", "x" * 101, ".current"])
def test_unsafe_names(name: str) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    store: Store = open_store(url)
    for ask in (lambda: store.publish(name, FILES), lambda: store.snapshot(name), lambda: store.versions(name)):
        with pytest.raises(StoreError, match="is not a name"):
            ask()
    assert names(url) == set()


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("nonsense://x/y", "is not known"),
        ("s3://", "no bucket"),
        ("s3://me:password@bucket/x", "credentials come from the environment"),
        ("https://me:password@host/x", "credentials come from the environment"),
        ("s3://bucket/x?secret=password", "credentials come from the environment"),
        ("s3://bucket::file:///etc", "a store's URL is"),
    ],
)
def test_urls_that_are_no_store(url: str, why: str) -> None:
    if url.startswith("s3"):
        pytest.importorskip("s3fs", reason="s3fs is not installed")
    with pytest.raises(StoreError, match=why) as caught:
        open_store(url)
    assert "password" not in str(caught.value).replace("user, password,", "")


@pytest.mark.parametrize("module", ["fsspec", "s3fs"])
def test_missing_extra(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """In a process of its own: fsspec remembers what it has imported."""
    script = (
        f"import sys; sys.modules[{module!r}] = None\nfrom kepler_core.store import open_store\nopen_store('s3://b')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == (
        f"kepler_core.errors.{MissingExtraError.__name__}: "
        f"a store at s3://b needs {module}: pip install 'kepler-core[s3]'"
    )


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_a_plain_web_server_can_be_read(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    theirs = tmp_path / "theirs"
    (theirs / "rapl-sysfs").mkdir(parents=True)
    (theirs / "metadata.json").write_bytes(b"{}")
    (theirs / "rapl-sysfs" / "x").write_bytes(b"12")
    LocalStore(tmp_path).publish("ours", FILES)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        store = open_store(f"http://127.0.0.1:{server.server_port}/")
        assert store.pipelines() == ["ours", "theirs"]
        snapshot = store.snapshot("theirs")
        assert snapshot.names == {"metadata.json", "rapl-sysfs/x"}
        assert snapshot.read("rapl-sysfs/x") == b"12"
        assert store.snapshot("ours").problems() == {}, "with its manifest"
        for change in (lambda: store.publish("p", FILES), lambda: store.check_writable("p")):
            with pytest.raises(StoreError, match=r"can only be read|cannot write"):
                change()
        with pytest.raises(StoreError, match="no pipeline 'nobody'"):
            store.snapshot("nobody")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    with pytest.raises(StoreError, match="cannot read the store"):
        store.pipelines()
