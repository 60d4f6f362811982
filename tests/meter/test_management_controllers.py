"""Test the sources that query a management controller: IPMI with a fake device, Redfish with a real HTTPS server."""

from __future__ import annotations

import ctypes
import json
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.slow_servers import SlowServer

from kepler_core.errors import MeterError, UsageError
from kepler_core.machine import MachineSpec
from kepler_core.metering import Observation, Reading
from kepler_servers.meter.settings import MeterSettings, build_chain
from kepler_servers.meter.sources import ipmi, redfish
from kepler_servers.meter.sources.ipmi import REQUEST, IpmiDevice, watts_of
from kepler_servers.meter.sources.polled import PolledSource
from kepler_servers.meter.sources.redfish import RedfishController, RedfishSettings
from kepler_servers.meter.this_machine import ThisMachine

OBSERVATION = Observation(1.7e9, 1.0, {"bpf_cpu_time_ms": 1.0}, 0.5)
NEVER = threading.Event()
MANY_SECONDS = 30.0


def answer(watts: int, code: int = 0, state: int = 0x40) -> bytes:
    return struct.pack("<BBHHHHIIB", code, 0xDC, watts, 1, 900, 100, 1_700_000_000, 60_000, state)


# --- the answer of a DCMI power reading ---


@given(st.integers(0, 65_535))
def test_the_power_is_the_present_power(watts: int) -> None:
    assert watts_of(answer(watts)) == watts


@given(st.binary(max_size=300))
def test_any_bytes_are_watts_or_a_reason(data: bytes) -> None:
    try:
        watts = watts_of(data)
    except MeterError:
        return
    assert 0 <= watts <= 65_535
    assert data[:2] == b"\x00\xdc"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"\xc1", "does not know"),
        (b"\xc7\xdc", "rejects the length"),
        (b"\xff", "0xff"),
        (answer(100)[:-1], "no answer to a power reading"),
        (answer(100, state=0), "does not measure"),
    ],
)
def test_an_answer_without_power_has_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(MeterError, match=reason):
        watts_of(data)


class FakeDevice:
    """A fake IPMI device. It replaces the functions `ioctl` and `select` that the source calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answers: list[bytes]) -> None:
        self.requests: list[tuple[int, int, bytes]] = []
        self._answers = answers
        self._queue: list[tuple[int, bytes]] = []
        monkeypatch.setattr(ipmi.fcntl, "ioctl", self.ioctl)
        monkeypatch.setattr(ipmi.select, "select", lambda *_: ([0] if self._queue else [], [], []))

    def ioctl(self, _: int, number: int, content: Any) -> int:
        if number == ipmi.SEND_COMMAND:
            message = content.msg
            self.requests.append((message.netfn, message.cmd, ctypes.string_at(message.data, message.data_len)))
            # before the right answer, an answer to an earlier request arrives
            self._queue += [(content.msgid - 1, answer(9999)), (content.msgid, self._answers.pop(0))]
            return 0
        assert number == ipmi.RECEIVE_MESSAGE
        identifier, data = self._queue.pop(0)
        content.recv_type, content.msgid = 1, identifier
        content.msg.netfn, content.msg.cmd, content.msg.data_len = 0x2D, 0x02, len(data)
        ctypes.memmove(content.msg.data, data, len(data))
        return 0


def test_the_device_is_asked_with_dcmi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "ipmi0"
    path.touch()
    device = FakeDevice(monkeypatch, [answer(312), b"\xc1"])
    controller = IpmiDevice(path)
    assert controller.watts(NEVER) == 312
    assert device.requests == [(0x2C, 0x02, REQUEST)]
    with pytest.raises(MeterError, match="does not know"):
        controller.watts(NEVER)
    controller.close()
    controller.close()


def test_the_numbers_of_the_ioctls_are_those_of_the_kernel() -> None:
    if ctypes.sizeof(ctypes.c_void_p) != 8:
        pytest.skip("numbers of 64-bit machines")
    assert (ipmi.SEND_COMMAND, ipmi.RECEIVE_MESSAGE) == (0x8028690D, 0xC030690B)


def test_a_device_that_is_missing_or_no_ipmi_device_is_reported(tmp_path: Path) -> None:
    with pytest.raises(MeterError, match="does not exist: load the kernel modules"):
        IpmiDevice(tmp_path / "ipmi0")
    (tmp_path / "file").touch()
    controller = IpmiDevice(tmp_path / "file")
    with pytest.raises(MeterError, match="ioctl"):  # "Inappropriate ioctl for device"
        controller.watts(NEVER)
    controller.close()


# --- Redfish ---


class _Handler(BaseHTTPRequestHandler):
    resources: dict[str, Any]
    password: str | None

    def do_GET(self) -> None:
        if self.password is not None and self.headers.get("Authorization") != self.password:
            self.send_error(401)
        elif self.path not in self.resources:
            self.send_error(404)
        else:
            resource = self.resources[self.path]
            content = resource if isinstance(resource, bytes) else json.dumps(resource).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def controller(
    resources: dict[str, Any], *, certificate: Path | None = None, password: str | None = None
) -> Iterator[str]:
    """Serve Redfish resources and yield the URL. If `certificate` is a file with a certificate and its key, use TLS."""
    handler = type("Handler", (_Handler,), {"resources": resources, "password": password})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http{'s' if certificate else ''}://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file that contains a self-signed certificate for 127.0.0.1 and the certificate's key."""
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=bmc", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", folder / "key",
         "-out", folder / "crt"],
        check=True, capture_output=True,
    )  # fmt: skip
    both = folder / "both.pem"
    both.write_bytes((folder / "crt").read_bytes() + (folder / "key").read_bytes())
    return both


def chassis(*names: str) -> dict[str, Any]:
    return {"/redfish/v1/Chassis": {"Members": [{"@odata.id": f"/redfish/v1/Chassis/{name}"} for name in names]}}


def power(watts: Any) -> dict[str, Any]:
    return {"PowerControl": [{"PowerConsumedWatts": watts}, {"PowerConsumedWatts": 1}]}


def ask(url: str, **settings: Any) -> float:
    return RedfishController(RedfishSettings(url, **settings)).watts(NEVER)


def test_the_older_and_the_newer_resource_state_the_power() -> None:
    with controller({**chassis("1"), "/redfish/v1/Chassis/1/Power": power(344)}) as url:
        assert ask(url) == 344
    metrics = {"PowerWatts": {"Reading": 355.5}}
    with controller({**chassis("1"), "/redfish/v1/Chassis/1/EnvironmentMetrics": metrics}) as url:
        assert ask(url) == 355.5


def test_certificates_are_verified_and_credentials_are_sent(certificate: Path, tmp_path: Path) -> None:
    resources = {**chassis("1"), "/redfish/v1/Chassis/1/Power": power(200)}
    secret = tmp_path / "secret"
    secret.write_text("root:s3cret word\n")
    with controller(resources, certificate=certificate, password="Basic cm9vdDpzM2NyZXQgd29yZA==") as url:
        with pytest.raises(MeterError, match="certificate cannot be verified") as refused:
            ask(url, credentials=secret)
        assert "s3cret" not in str(refused.value)
        assert ask(url, credentials=secret, ca_file=certificate) == 200
        assert ask(url, credentials=secret, insecure=True) == 200
        with pytest.raises(MeterError, match="user and password are needed"):
            ask(url, insecure=True)


def test_several_chassis_need_a_choice() -> None:
    resources = {
        **chassis("a", "b", "c"),
        "/redfish/v1/Chassis/a/Power": power(100),
        "/redfish/v1/Chassis/b/Power": power(200),
    }
    with controller(resources) as url:
        with pytest.raises(MeterError, match="choose one of a, b"):
            ask(url)
        assert ask(url, chassis="b") == 200
        with pytest.raises(MeterError, match="no chassis states its power"):
            ask(url, chassis="c")


@pytest.mark.parametrize(
    ("resource", "reason"),
    [
        (power(None), "no chassis states its power"),
        (power(0), "no chassis states its power"),
        (power("hot"), "PowerConsumedWatts"),
        (b"<html>", "JSON"),
        (b"\xff" * 50, "JSON"),
        (b" " * (redfish.MAX_ANSWER_BYTES + 1), "more than"),
    ],
)
def test_an_answer_without_power_is_no_measurement(resource: Any, reason: str) -> None:
    resources = {**chassis("1"), "/redfish/v1/Chassis/1/Power": resource}
    with controller(resources) as url, pytest.raises(MeterError, match=reason):
        ask(url)


@pytest.mark.parametrize(
    ("url", "settings", "problem"),
    [
        ("10.0.0.5", {}, "not a URL"),
        ("https://[::1", {}, "not a URL"),
        ("https://user:pass@bmc", {}, "into a file"),
        ("https://bmc/redfish/v1/Chassis/1", {}, "only the scheme"),
        ("http://bmc.example", {"credentials": Path("x")}, "https only"),
    ],
)
def test_wrong_settings_are_refused_without_their_secrets(url: str, settings: Any, problem: str) -> None:
    with pytest.raises(UsageError, match=problem) as refused:
        RedfishSettings(url, **settings)
    assert "pass@" not in str(refused.value)


def test_a_controller_that_never_ends_its_answer_is_given_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redfish, "ANSWER_SECONDS", 1.0)
    server = SlowServer(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", repeat=b" ")
    try:
        with pytest.raises(MeterError, match="no complete answer"):
            ask(server.url)
    finally:
        server.close()


def test_a_controller_that_does_not_answer_is_reported() -> None:
    with controller({}) as url:
        pass
    with pytest.raises(MeterError, match="Connection refused"):
        ask(url)


def test_a_virtual_machine_has_no_management_controller() -> None:
    guest = ThisMachine(MachineSpec(cores=2), "flag hypervisor", (), "2 vCPUs")
    for name, settings in (
        ("redfish", MeterSettings(redfish=RedfishSettings("https://bmc"))),
        ("ipmi", MeterSettings(ipmi_device="/dev/ipmi0")),
    ):
        with pytest.raises(UsageError, match=f"--{name}: this is a virtual machine"):
            build_chain(settings, guest)
    build_chain(attrs.evolve(settings, sources=["ipmi"]), attrs.evolve(guest, virtual=None)).close()


# --- the thread that asks ---


class Controller:
    """A management controller whose answers the test sets."""

    def __init__(self) -> None:
        self.power: float | None = 250.0
        self.answers = threading.Event()
        """While this event is not set, requests wait for an answer of the controller."""
        self.answers.set()

    def watts(self, _: threading.Event) -> float:
        self.answers.wait()
        if self.power is None:
            raise MeterError("no answer")
        return self.power

    def close(self) -> None:
        pass


def until_read(source: PolledSource, *, failures: bool = False) -> Reading:
    """Return the first reading of the source. If `failures` is true, ignore failed readings before it."""
    deadline = time.monotonic() + MANY_SECONDS
    while time.monotonic() < deadline:
        try:
            if (reading := source.read(OBSERVATION)) is not None:
                return reading
        except MeterError:
            if not failures:
                raise
        time.sleep(0.01)
    raise AssertionError("no reading")


def test_the_latest_answer_is_used_until_it_is_stale() -> None:
    now = [100.0]
    asked = Controller()
    asked.answers.clear()
    source = PolledSource("redfish", "about", lambda: asked, interval=5.0, clock=lambda: now[0])
    assert source.read(OBSERVATION) is None  # the controller has not answered yet, and `read` does not wait
    asked.answers.set()
    reading = until_read(source)
    asked.answers.clear()
    assert (reading.main, reading.power["platform"].watts) == ("platform", 250.0)
    assert (reading.provenance.kind, reading.provenance.name) == ("measured", "redfish")
    now[0] += 14
    assert source.read(OBSERVATION) is not None
    now[0] += 2
    with pytest.raises(MeterError, match="16 s old"):
        source.read(OBSERVATION)
    source.close()
    asked.answers.set()


def test_a_controller_that_fails_is_reported_and_used_again() -> None:
    asked = Controller()
    asked.power = None
    source = PolledSource("ipmi", "about", lambda: asked, interval=0.1)
    with pytest.raises(MeterError, match="no answer"):
        until_read(source)
    asked.power = 99.0
    assert until_read(source, failures=True).power["platform"].watts == 99.0
    source.close()


@pytest.mark.parametrize("watts", [0.01, 20_000.0, float("nan")])
def test_impossible_power_is_no_measurement(watts: float) -> None:
    asked = Controller()
    asked.power = watts
    source = PolledSource("ipmi", "about", lambda: asked, interval=0.1)
    with pytest.raises(MeterError, match="no machine draws"):
        until_read(source)
    source.close()
