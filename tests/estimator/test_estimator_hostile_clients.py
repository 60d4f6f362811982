"""Tests with hostile clients of an estimator. At the same time, another client must get the right answers."""

from __future__ import annotations

import contextlib
import json
import random
import resource
import socket
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.estimator_clients import (
    KEPLERS_READ,
    CheckingClient,
    ask,
    ask_as_kepler,
    checked_reply,
    connect,
    watts_request,
)
from support.estimator_process import EstimatorProcess
from support.linear_models import ALL, publish
from support.process import PATIENCE, wait_for
from support.small_pipelines import BPF

REQUEST = watts_request([[100, 200], [0, 0]])
WATTS = {"package": [51.2, 50.0], "dram": [8.4, 8.0]}
BODY = json.dumps(REQUEST).encode()


class Attack:
    """Opens hostile connections to an estimator. The method `close` closes all these connections."""

    def __init__(self, estimator: EstimatorProcess, client: CheckingClient) -> None:
        self.estimator = estimator
        self.path = estimator.path
        self._client = client
        self._open: list[socket.socket] = []

    def connect(self) -> socket.socket:
        connection = connect(self.path)
        self._open.append(connection)
        return connection

    def send(self, content: bytes) -> socket.socket:
        """Open a connection, send as much of the content as the estimator accepts, and return the connection."""
        connection = self.connect()
        with contextlib.suppress(OSError):
            connection.sendall(content)
        return connection

    def reply(self, content: bytes) -> dict[str, Any]:
        """Send a request, check that the whole reply is valid, and return it."""
        return checked_reply(read_all(self.send(content)))

    def refused(self, content: bytes, reason: str = "") -> None:
        """Send a request. Check that the reply has no watts, and that its message contains the reason."""
        reply = self.reply(content)
        assert not any(map(any, reply["powers"].values()))
        assert reply["msg"]
        assert reason in reply["msg"]

    def meanwhile(self, answers: int = 3) -> None:
        """Check that another client, which behaves well, still gets answers."""
        self._client.wait(answers)

    def close(self) -> None:
        for connection in self._open:
            connection.close()


def read_all(connection: socket.socket) -> bytes:
    """Return all bytes that arrive until the estimator closes the connection."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(65536):
            received += piece
    return received


def body(**changes: Any) -> bytes:
    """Return `REQUEST` as JSON with some of its keys replaced."""
    return json.dumps({**REQUEST, **changes}).encode()


CASES: dict[str, Callable[[Attack], None]] = {}


def case(run: Callable[[Attack], None]) -> Callable[[Attack], None]:
    """Decorator that adds a function to `CASES`. The function attacks an estimator like a hostile client."""
    CASES[run.__name__.replace("_", " ")] = run
    return run


# --- connections ---


@case
def silent(attack: Attack) -> None:
    for _ in range(50):
        attack.connect()
    attack.meanwhile()


@case
def connects_and_closes(attack: Attack) -> None:
    for _ in range(200):
        attack.connect().close()


@case
def connects_and_closes_from_many_threads(attack: Attack) -> None:
    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(lambda _: connect(attack.path).close(), range(400)):
            pass


@case
def closes_after_each_byte(attack: Attack) -> None:
    for end in range(1, len(BODY)):
        attack.send(BODY[:end]).close()


@case
def closes_before_it_reads(attack: Attack) -> None:
    for _ in range(100):
        attack.send(BODY).close()


@case
def closes_at_once_with_a_reset(attack: Attack) -> None:
    for _ in range(50):
        connection = attack.send(BODY)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()


@case
def byte_by_byte(attack: Attack) -> None:
    connection = attack.connect()
    for at in range(len(BODY)):
        connection.sendall(BODY[at : at + 1])
        if at % 50 == 0:
            attack.meanwhile(1)
    assert checked_reply(read_all(connection))["powers"] == WATTS


@case
def byte_by_byte_from_fifty_at_once(attack: Attack) -> None:
    connections = [attack.connect() for _ in range(50)]
    for at in range(len(BODY)):
        for connection in connections:
            connection.sendall(BODY[at : at + 1])
    for connection in connections:
        assert checked_reply(read_all(connection))["powers"] == WATTS


@case
def half_closes_after_the_request(attack: Attack) -> None:
    for _ in range(20):
        connection = attack.send(BODY)
        connection.shutdown(socket.SHUT_WR)
        assert checked_reply(read_all(connection))["powers"] == WATTS


@case
def half_closes_while_its_model_is_looked_for(attack: Attack) -> None:
    for number in range(20):
        connection = attack.send(body(filter=f"mae:{1000 + number}"))
        connection.shutdown(socket.SHUT_WR)
        assert checked_reply(read_all(connection))["powers"] == WATTS


@case
def closes_while_its_model_is_looked_for(attack: Attack) -> None:
    for number in range(40):
        attack.send(body(filter=f"mae:{2000 + number}")).close()


@case
def half_closes_in_the_request(attack: Attack) -> None:
    for end in (0, 1, 20, len(BODY) - 1):
        connection = attack.send(BODY[:end])
        connection.shutdown(socket.SHUT_WR)
        content = read_all(connection)
        assert not content or checked_reply(content)["powers"] == {}


@case
def stops_reading_and_half_closes(attack: Attack) -> None:
    for _ in range(20):
        connection = attack.connect()
        connection.shutdown(socket.SHUT_RD)
        with contextlib.suppress(OSError):
            connection.sendall(BODY)


@case
def a_thousand_connections(attack: Attack) -> None:
    for _ in range(1000):
        attack.connect()
    attack.meanwhile()


@case
def two_thousand_connections_with_half_a_request(attack: Attack) -> None:
    for _ in range(2000):
        attack.send(BODY[:100])
    attack.meanwhile()


@case
def connections_that_hold_as_much_as_the_estimator_allows(attack: Attack) -> None:
    held = b'{"metrics":["' + b"x" * 18_000
    for _ in range(950):
        attack.send(held)
    large = json.dumps(watts_request([[1.25, 2.5]] * 6000)).encode()
    for _ in range(3):
        # The request `large` needs several reads, and is larger than the requests of the other connections.
        reply = attack.reply(large)
        assert len(reply["powers"].get("package", [])) == 6000, reply["msg"]
    attack.meanwhile()


@case
def never_reads(attack: Attack) -> None:
    for _ in range(50):
        attack.send(BODY)
    attack.meanwhile()


@case
def never_reads_a_large_reply(attack: Attack) -> None:
    large = json.dumps(watts_request([[1.25, 2.5]] * 20_000)).encode()
    for _ in range(10):
        attack.send(large)
    attack.meanwhile()


@case
def reads_a_large_reply_byte_by_byte_and_gives_up(attack: Attack) -> None:
    connection = attack.send(json.dumps(watts_request([[1.25, 2.5]] * 20_000)).encode())
    for _ in range(1000):
        connection.recv(1)
    attack.meanwhile()


# --- bytes before and after the JSON object of a request ---


@case
def sends_after_the_object(attack: Attack) -> None:
    for after in (b"\n", b"\0", b"garbage", b"}", b"{", b"}" * 100_000, b"\xff" * 1000):
        assert attack.reply(BODY + after)["powers"] == WATTS, after[:10]


@case
def sends_two_objects(attack: Attack) -> None:
    assert attack.reply(BODY + body(source="acpi"))["powers"] == WATTS
    assert attack.reply(BODY * 100)["powers"] == WATTS


@case
def sends_on_while_it_is_answered(attack: Attack) -> None:
    for _ in range(20):
        connection = attack.send(BODY)
        with contextlib.suppress(OSError):
            for _ in range(100):
                connection.sendall(b"x" * 1000)


@case
def one_object_in_another(attack: Attack) -> None:
    assert attack.reply(body(inner=REQUEST, other=[REQUEST, {"a": "}"}]))["powers"] == WATTS


@case
def blanks_before_it(attack: Attack) -> None:
    assert attack.reply(b" \r\n\t" * 20_000 + BODY)["powers"] == WATTS


# --- requests that are not JSON ---


@case
def garbage(attack: Attack) -> None:
    generator = random.Random(3)
    for _ in range(100):
        content = b"\x01" + generator.randbytes(generator.randrange(2000))
        attack.refused(content, "not a JSON object")


@case
def nul_bytes(attack: Attack) -> None:
    attack.refused(b"\0" * 10_000, "not a JSON object")
    attack.refused(BODY.replace(b"AbsPower", b"Abs\0Power"))
    attack.refused(b"{\0}")


@case
def not_utf8(attack: Attack) -> None:
    attack.refused(BODY.replace(b"bpf_cpu_time_ms", b"\xff\xfe\xfd"))
    attack.refused(b'{"\xff":1}')
    attack.refused(BODY.replace(b"intel_rapl", b"\xc3\x28"))
    attack.refused(b"\xff\xfe" + BODY.decode().encode("utf-16-le"))


@case
def other_encodings(attack: Attack) -> None:
    for encoding in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-16", "utf-8-sig"):
        connection = attack.send(BODY.decode().encode(encoding))
        connection.shutdown(socket.SHUT_WR)
        content = read_all(connection)
        assert checked_reply(content)["powers"] in ({}, WATTS)


@case
def half_characters(attack: Attack) -> None:
    attack.refused('{"metrics":["€"]}'.encode().replace(b"\xac", b""))
    attack.refused(rb'{"metrics":["\ud800"],"values":[[1]],"output_type":"AbsPower"}')


@case
def half_characters_everywhere(attack: Attack) -> None:
    """Send lone surrogates. Python's JSON decoder accepts them, but they cannot be encoded as UTF-8."""
    for key in ("source", "trainer_name", "filter", "output_type"):
        attack.refused(json.dumps({**REQUEST, key: "\ud800"}).encode())
    attack.reply(body(metrics=[*BPF, "\ud800"], values=[[100, 200, 1], [0, 0, 1]]))
    attack.refused(body(metrics=["\udfff"], values=[[1]]))
    attack.refused(body(metrics=["\udfff", "\udfff"], values=[[1, 1]]))
    assert b"msg" in read_all(attack.send(b'{"command":"\\ud800"}'))
    assert attack.estimator.status()["models"], "the status must still be readable"


@case
def an_array(attack: Attack) -> None:
    for content in (b"[]", b"[{}]", b"[" * 100_000, b"[" + BODY + b"]"):
        attack.refused(content, "not a JSON object")


@case
def other_values(attack: Attack) -> None:
    for content in (b"null", b"true", b"0", b"-1", b'"text"', b"NaN", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"):
        attack.refused(content, "not a JSON object")


@case
def broken_json(attack: Attack) -> None:
    for content in (b"{,}", b"{a:1}", b"{'a':1}", b'{"a":}', b'{"a" 1}', b'{"a":1,}', b"{{}}", b'{"a":[}', b"{//}"):
        attack.refused(content)


@case
def deep_nesting(attack: Attack) -> None:
    for opened, closed in ((b'{"a":', b"}"), (b'{"values":[', b"]}")):
        attack.refused(opened * 150_000 + b"1" + closed * 150_000)
    attack.refused(b'{"values":' + b"[" * 500_000 + b"]" * 500_000 + b"}")


@case
def deep_nesting_without_end(attack: Attack) -> None:
    attack.refused(b'{"a":' * 900_000, "bytes")


@case
def a_million_quotes_and_backslashes(attack: Attack) -> None:
    attack.refused(b'{"' + b'\\"' * 1_000_000 + b'"}')
    attack.refused(b'{"' + b"\\\\" * 1_000_000 + b'":1}')


# --- requests that are too large, and too many requests ---


@case
def a_request_without_end(attack: Attack) -> None:
    attack.refused(b'{"metrics":["' + b"x" * 5_000_000, "bytes")


@case
def a_request_that_is_refused_before_it_is_sent(attack: Attack) -> None:
    """Clients send the whole request before they read the reply, so sending must not fail if the request is refused."""
    for content in (body(source="x" * 6_000_000), b'{"metrics":["' + b"x" * 30_000_000, b"x" * 30_000_000):
        with connect(attack.path) as connection:
            connection.sendall(content)
            reply = checked_reply(connection.recv(KEPLERS_READ))
            assert reply["powers"] == {}
            assert "bytes" in reply["msg"] or "expected" in reply["msg"]
            assert connection.recv(KEPLERS_READ) == b""


@case
def eight_requests_without_end(attack: Attack) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: read_all(attack.send(b'{"a":"' + b"x" * 4_500_000)), range(8)))


@case
def a_huge_string(attack: Attack) -> None:
    for key in ("source", "trainer_name", "filter", "output_type"):
        attack.refused(body(**{key: "x" * 1_000_000}))
    attack.refused(body(metrics=["x" * 1_000_000, "y"]))


@case
def a_huge_number_of_rows(attack: Attack) -> None:
    attack.refused(json.dumps(watts_request([[0, 0]] * 50_000)).encode(), "at most")
    attack.refused(BODY.replace(b"[[100, 200], [0, 0]]", b"[" + b"[]," * 300_000 + b"[]]"), "at most")


@case
def a_huge_number_of_metrics(attack: Attack) -> None:
    attack.refused(body(metrics=[f"m{n}" for n in range(100_000)]), "metrics")
    attack.refused(body(system_features=[f"m{n}" for n in range(100_000)]), "metrics")


@case
def one_metric_a_hundred_thousand_times(attack: Attack) -> None:
    attack.refused(body(metrics=["bpf_cpu_time_ms"] * 100_000))


@case
def a_huge_number_of_keys(attack: Attack) -> None:
    assert attack.reply(body(**{f"k{n}": n for n in range(100_000)}))["powers"] == WATTS


@case
def huge_numbers(attack: Attack) -> None:
    for number in ("9" * 4000, "9" * 100_000, "1e999999999", "0." + "0" * 100_000 + "1"):
        content = BODY.replace(b"[100, 200]", f"[{number}, 200]".encode())
        reply = attack.reply(content)
        assert reply["powers"]["package"][1:] == [50.0]


@case
def a_reason_that_would_be_longer_than_a_reply(attack: Attack) -> None:
    names = ["😀" * 900 + str(n) for n in range(100)]
    for output_type in ("AbsPower", "DynPower"):
        request = watts_request([[1] * 100] * 300, metrics=names, output_type=output_type, source="acpi")
        content = ask_as_kepler(attack.path, request)
        assert len(content) < 4096
        assert not any(map(any, checked_reply(content)["powers"].values()))


# --- requests that make no sense ---


@case
def an_empty_object(attack: Attack) -> None:
    attack.refused(b"{}", "output_type")


@case
def unknown_names(attack: Attack) -> None:
    attack.refused(body(source="no_such_source"), "source")
    attack.refused(body(trainer_name="NoSuchTrainer"), "trainer")
    attack.refused(body(filter="no_such:5"), "filter")
    attack.refused(body(output_type="NoSuchPower"), "output_type")
    attack.refused(body(metrics=["no", "such"]), "missing")


@case
def names_that_are_paths_and_code(attack: Attack) -> None:
    for name in ("../../etc/passwd", "__import__('os').system('x')", "%s%n", "${jndi:ldap://x}", "a\nb\r\x1b[31m"):
        for key in ("source", "trainer_name", "filter"):
            attack.refused(body(**{key: name}))
        attack.refused(body(metrics=[name], values=[[1], [2]]))


@case
def lines_that_forge_the_log(attack: Attack) -> None:
    forged = "x\n2030-01-01 00:00:00,000 ERROR forged"
    for key in ("source", "trainer_name", "filter", "output_type"):
        attack.refused(body(**{key: forged}))
    attack.refused(body(metrics=[forged, "y"]))
    assert "\n2030-01-01" not in attack.estimator.log


@case
def wrong_types(attack: Attack) -> None:
    for key in ("metrics", "values", "output_type", "source", "trainer_name", "filter", "command"):
        for value in (True, 5, -1.5, [[[]]], {"a": {}}, [None]):
            attack.reply(body(**{key: value})) if key != "command" else attack.refused(body(command=value))


@case
def rows_that_make_no_sense(attack: Attack) -> None:
    rows = [[1], [1, 2, 3], [], None, "x", {}, [None, 1], ["1", "2"], [True, False], [-1, 1], [[1], [2]], [1e17, 1]]
    reply = attack.reply(body(values=[[100, 200], *rows, [0, 0]]))
    assert reply["powers"]["package"] == [51.2] + [0.0] * len(rows) + [50.0]


@case
def nothing_but_wrong_rows(attack: Attack) -> None:
    content = body(values=[[-1, 0]] * 5000, output_type="DynPower")
    assert attack.reply(content)["powers"] == {"package": [0] * 5000}


@case
def no_rows_and_no_metrics(attack: Attack) -> None:
    attack.reply(body(values=[]))
    attack.reply(body(values=[], metrics=[]))
    attack.reply(body(values=[[], []], metrics=[]))
    attack.reply(body(values=[[], []], metrics=[], output_type="DynPower"))


@case
def commands_that_make_no_sense(attack: Attack) -> None:
    for name in ("", "stop", "x" * 1_000_000, "\0", "😀"):
        reply = json.loads(read_all(attack.send(json.dumps({"command": name}).encode())))
        assert "unknown command" in reply["msg"]
        assert len(reply["msg"]) < 300


@case
def status_from_many_at_once(attack: Attack) -> None:
    with ThreadPoolExecutor(8) as pool:
        for content in pool.map(lambda _: read_all(attack.send(b'{"command":"status"}')), range(80)):
            assert json.loads(content)["pid"] == attack.estimator.process.pid


# --- many requests that need different models ---


@case
def a_thousand_kinds_of_requests(attack: Attack) -> None:
    """Send requests with 1000 different filters. Each filter needs its own entry in the model cache.

    Meanwhile, another client repeats one request. The entry for this request must stay in the cache.
    """
    platform = watts_request(source="acpi")
    assert ask(attack.path, platform)["powers"] == {"platform": [102.0]}

    def flood(number: int) -> None:
        with contextlib.suppress(OSError):
            attack.send(body(filter=f"mae:{10_000 + number}"))

    for start in range(0, 1000, 250):
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(flood, range(start, start + 250)))
        assert ask(attack.path, platform)["powers"] == {"platform": [102.0]}
        attack.meanwhile(1)


@case
def a_thousand_kinds_that_have_no_model(attack: Attack) -> None:
    platform = watts_request(source="acpi", output_type="AbsPower")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: attack.send(body(trainer_name=f"T{n}")), range(1000)))
        assert ask(attack.path, platform)["powers"] == {"platform": [102.0]}
        list(pool.map(lambda n: attack.send(body(source=f"s{n}")), range(300)))
        assert ask(attack.path, platform)["powers"] == {"platform": [102.0]}


@case
def a_thousand_reasons_do_not_fill_the_log(attack: Attack) -> None:
    before = len(attack.estimator.log)
    for number in range(1000):
        attack.send(body(output_type=f"no such type {number}")).close()
    attack.meanwhile()
    assert len(attack.estimator.log) - before < 50_000


# --- running the cases ---


def test_the_number_of_cases() -> None:
    assert len(CASES) >= 40


@pytest.fixture(scope="module", autouse=True)
def _many_descriptors() -> Iterator[None]:
    """Raise the limit of file descriptors, because this process has the connections of all clients."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] != resource.RLIM_INFINITY and before[1] < 4000:
        pytest.skip("too few file descriptors for the clients")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], 4000), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


class AttackedEstimator:
    """The estimator that the hostile clients attack. If a client ends the estimator, a new one is started."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        publish(folder / "store", *ALL)
        self.process = self.start()
        self.descriptors = min(self.process.descriptors() for _ in range(20) if time.sleep(0.01) is None)
        """Number of the estimator's open file descriptors while no client is connected."""

    def start(self) -> EstimatorProcess:
        process = EstimatorProcess(self._folder / "e.sock", "-s", self._folder / "store", "--reply-limit", "0")
        process.wait_ready()
        for request in (REQUEST, watts_request(source="acpi"), watts_request(output_type="DynPower")):
            process.ask(request)
        return process


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AttackedEstimator]:
    estimator = AttackedEstimator(tmp_path_factory.mktemp("hostile"))
    yield estimator
    assert estimator.process.stop() == 0


@pytest.fixture
def estimator(attacked: AttackedEstimator) -> EstimatorProcess:
    if attacked.process.process.poll() is not None:
        attacked.process = attacked.start()
    return attacked.process


@pytest.fixture(scope="module")
def descriptors(attacked: AttackedEstimator) -> int:
    return attacked.descriptors


@pytest.fixture(scope="module")
def client(attacked: AttackedEstimator) -> Iterator[CheckingClient]:
    with CheckingClient(attacked.process.path, REQUEST, [WATTS], 1) as checking_client:
        yield checking_client


def run_case(name: str, estimator: EstimatorProcess, client: CheckingClient) -> None:
    attack = Attack(estimator, client)
    try:
        CASES[name](attack)
    finally:
        attack.close()


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_client_does_not_affect_another_one(
    name: str, estimator: EstimatorProcess, client: CheckingClient, descriptors: int
) -> None:
    client.wrong.clear()
    start = len(estimator.log)
    run_case(name, estimator, client)
    client.wait()
    assert client.wrong == []
    assert estimator.process.poll() is None
    wait_for(lambda: estimator.descriptors() <= descriptors, f"more than {descriptors} file descriptors are left")
    for word in ("Traceback", "defect of the estimator"):
        assert word not in estimator.log[start:], estimator.log[start:][-3000:]


def test_slow_clients_are_dropped(estimator: EstimatorProcess, client: CheckingClient, descriptors: int) -> None:
    """The estimator closes the connections of clients that are silent, send slowly, or do not read their reply."""
    attack = Attack(estimator, client)
    try:
        large = attack.send(json.dumps(watts_request([[1.25, 2.5]] * 20_000)).encode())
        slow = [attack.connect(), attack.send(BODY[:-1]), attack.send(b" " * 1000)]
        drip = attack.send(BODY[:10])
        gone = False
        until = time.monotonic() + PATIENCE
        while not gone and time.monotonic() < until:
            # Sending one byte now and then does not extend the time limit of a request.
            time.sleep(0.5)
            with contextlib.suppress(OSError):
                drip.send(b" ")
            gone = estimator.descriptors() <= descriptors
        assert gone, "a client is still connected"
        assert [read_all(connection) for connection in slow] == [b"", b"", b""]
        assert len(read_all(large)) < 500_000
        assert estimator.status()["dropped_connections"]["too slow"] >= 5
    finally:
        attack.close()
    client.wait()
    assert client.wrong == []


def test_memory_does_not_grow(estimator: EstimatorProcess, client: CheckingClient) -> None:
    """After three attacks by all hostile clients, the estimator uses little more memory than after two attacks."""
    resident = []
    for _ in range(3):
        for name in CASES:
            # Another test reports failures: `test_a_hostile_client_does_not_affect_another_one`.
            with contextlib.suppress(AssertionError, ValueError, KeyError):
                run_case(name, estimator, client)
        client.wait()
        resident.append(estimator.resident_kib())
    assert resident[2] - resident[1] < 8 * 1024


# --- fuzz ---

_MUTATIONS = st.lists(
    st.tuples(st.integers(0, len(BODY) - 1), st.integers(0, 3), st.binary(max_size=6)), min_size=1, max_size=5
)


def mutated(changes: list[tuple[int, int, bytes]]) -> bytes:
    """Return `BODY` with some bytes replaced, inserted or removed, or with its end cut off."""
    content = bytearray(BODY)
    for at, kind, piece in changes:
        if kind == 0:
            content[at : at + len(piece)] = piece
        elif kind == 1:
            content[at:at] = piece
        elif kind == 2:
            del content[at : at + 1 + len(piece)]
        elif len(piece) == 6:
            del content[at:]
    return bytes(content)


@pytest.fixture
def fuzzed(estimator: EstimatorProcess) -> Iterator[Path]:
    start = len(estimator.log)
    yield estimator.path
    assert estimator.process.poll() is None
    assert estimator.ask(REQUEST)["powers"] == WATTS
    for word in ("Traceback", "defect of the estimator"):
        assert word not in estimator.log[start:], estimator.log[start:][-3000:]


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.one_of(_MUTATIONS.map(mutated), st.binary(max_size=300)), cut=st.integers(0, 300), end=st.booleans())
@example(content=b"{}", cut=1, end=False)
@example(content=b'{"command":"status"}', cut=5, end=True)
def test_fuzz(fuzzed: Path, content: bytes, cut: int, end: bool) -> None:
    """Send any bytes in two pieces. The estimator must send a valid reply or close the connection."""
    with connect(fuzzed) as connection:
        for piece in (content[:cut], content[cut:]):
            with contextlib.suppress(ConnectionError):
                if piece:
                    connection.sendall(piece)
        if end or not content.rstrip(b" \t\r\n").endswith(b"}"):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
        else:
            connection.settimeout(0.05)  # the estimator may be waiting for the rest of the request
        try:
            received = read_all(connection)
        except TimeoutError:
            return
        if received and b'"version"' not in received:
            reply = json.loads(received)
            assert "msg" in reply
            if "powers" in reply:
                checked_reply(received)
