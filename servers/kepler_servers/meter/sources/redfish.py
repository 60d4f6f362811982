"""Read the power that the management controller measures, with Redfish over HTTPS.

The resources are defined in DMTF's Redfish specification DSP0266, with the schemas `Power`
(PowerControl[].PowerConsumedWatts) and `EnvironmentMetrics` (PowerWatts.Reading).
"""

from __future__ import annotations

import base64
import http.client
import math
import ssl
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import quote, urlsplit

import attrs
import msgspec

from kepler_core.deadlines import Deadline, DeadlineError, read_bounded
from kepler_core.documents import DocumentError, decode_json
from kepler_core.errors import KeplerError, MeterError, UsageError
from kepler_core.messages import one_line, printable
from kepler_core.urls import is_loopback, shown_url

T = TypeVar("T")

ANSWER_SECONDS = 10.0
"""Time limit for a request, from the start of the connection to the last byte of the answer."""
MAX_ANSWER_BYTES = 2**20
MAX_CREDENTIALS_BYTES = 1000
MAX_CHASSIS = 64
_CHASSIS = "/redfish/v1/Chassis"
_SHOWN_CHARACTERS = 80


class _Link(msgspec.Struct):
    path: Annotated[str, msgspec.Meta(max_length=500)] = msgspec.field(name="@odata.id")


class _Members(msgspec.Struct):
    members: Annotated[list[_Link], msgspec.Meta(max_length=1000)] = msgspec.field(name="Members")


class _Control(msgspec.Struct):
    watts: float | None = msgspec.field(name="PowerConsumedWatts", default=None)


class _Power(msgspec.Struct):
    controls: Annotated[list[_Control], msgspec.Meta(max_length=1000)] = msgspec.field(
        name="PowerControl", default_factory=list
    )


class _Sensor(msgspec.Struct):
    reading: float | None = msgspec.field(name="Reading", default=None)


class _Metrics(msgspec.Struct):
    power: _Sensor | None = msgspec.field(name="PowerWatts", default=None)


@attrs.frozen
class RedfishSettings:
    """The address of the management controller, and the settings for the login."""

    url: str
    """URL of the management controller, e.g. https://10.0.0.5. Only the scheme, host and port are used."""
    credentials: Path | None = None
    """File with one line of the form user:password."""
    ca_file: Path | None = None
    """File with the certificates of the authorities that signed the controller's certificate."""
    insecure: bool = False
    """Whether any certificate of the controller is accepted, without verification."""
    chassis: str | None = None
    """Name of the chassis whose power is read; None means the only chassis that states a power."""

    def __attrs_post_init__(self) -> None:
        """Check the settings. Raises `UsageError` if a setting is wrong."""
        try:
            parts = urlsplit(self.url)
            host, _ = parts.hostname, parts.port
        except ValueError:
            host, parts = None, urlsplit("")
        shown = f"Redfish URL {printable(shown_url(self.url), _SHOWN_CHARACTERS)}"
        if parts.scheme not in ("http", "https") or not host:
            raise UsageError(f"{shown}: not a URL such as https://10.0.0.5")
        if parts.username is not None or parts.password is not None:
            raise UsageError(f"{shown}: put user and password into a file (--redfish-credentials), not into the URL")
        if parts.path.rstrip("/") not in ("", "/redfish", "/redfish/v1"):
            raise UsageError(f"{shown}: give only the scheme, host and port")
        if parts.scheme == "http" and self.credentials is not None and not is_loopback(host):
            raise UsageError(f"{shown}: a password is sent over https only")

    @property
    def description(self) -> str:
        """The URL without secrets."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"


class RedfishController:
    """A management controller that answers Redfish requests."""

    def __init__(self, settings: RedfishSettings) -> None:
        """Read the files with credentials and certificates. Raises `MeterError` if one of them cannot be read."""
        parts = urlsplit(settings.url)
        self._host = parts.hostname or ""
        self._port = parts.port
        self._where = settings.description
        self._context = _tls(settings) if parts.scheme == "https" else None
        self._headers = {"Accept": "application/json", "User-Agent": "kepler-model"}
        if settings.credentials is not None:
            user = base64.b64encode(_credentials(settings.credentials)).decode()
            self._headers["Authorization"] = f"Basic {user}"
        self._chassis = None if settings.chassis is None else f"{_CHASSIS}/{quote(settings.chassis, safe='')}"
        self._resource: str | None = None
        """Path of the resource that states the power; None until it is known."""

    def watts(self, stop: threading.Event) -> float:
        """Return the watts of the whole machine. Raises `MeterError`."""
        if self._resource is None:
            self._resource = self._find(stop)
        watts = self._read(self._resource, stop)
        if watts is None:
            where, self._resource = self._resource, None
            raise MeterError(f"{self._where}{where} states no power")
        return watts

    def close(self) -> None:
        """Do nothing, because each request has its own connection."""

    def _find(self, stop: threading.Event) -> str:
        """Return the path of the only resource that states a power.

        Raises `MeterError` if there is none, or more than one.
        """
        chassis = [self._chassis] if self._chassis is not None else self._members(stop)
        resources = [path for one in chassis if (path := self._resource_of(one, stop)) is not None]
        if len(resources) == 1:
            return resources[0]
        if not resources:
            names = ", ".join(printable(one.rpartition("/")[2], 40) for one in chassis[:5]) or "none"
            raise MeterError(f"{self._where}: no chassis states its power (chassis: {names})")
        names = ", ".join(printable(path.removeprefix(_CHASSIS).split("/")[1], 40) for path in resources[:5])
        raise MeterError(f"{self._where}: several chassis state their power: choose one of {names} (--redfish-chassis)")

    def _members(self, stop: threading.Event) -> Sequence[str]:
        answer = self._get(_CHASSIS, _Members, stop)
        if answer is None:
            raise MeterError(f"{self._where}{_CHASSIS} does not exist: no Redfish service")
        paths = [link.path.rstrip("/") for link in answer.members]
        return [path for path in paths if path.startswith(_CHASSIS + "/")][:MAX_CHASSIS]

    def _resource_of(self, chassis: str, stop: threading.Event) -> str | None:
        for path in (f"{chassis}/EnvironmentMetrics", f"{chassis}/Power"):
            if self._read(path, stop) is not None:
                return path
        return None

    def _read(self, path: str, stop: threading.Event) -> float | None:
        """Return the watts that a resource states; None if the resource does not exist, or does not state any watts."""
        watts: float | None = None
        if path.endswith("/Power"):
            power = self._get(path, _Power, stop)
            controls = [] if power is None else power.controls
            watts = controls[0].watts if controls else None
        else:
            metrics = self._get(path, _Metrics, stop)
            watts = None if metrics is None or metrics.power is None else metrics.power.reading
        return watts if watts is not None and math.isfinite(watts) and watts > 0 else None

    def _get(self, path: str, form: type[T], stop: threading.Event) -> T | None:
        """Return the decoded resource at a path; None if it does not exist.

        Raises `MeterError` for all other failures.
        """
        where = f"{self._where}{printable(path, _SHOWN_CHARACTERS)}"
        connections: list[http.client.HTTPConnection] = []
        deadline = Deadline(ANSWER_SECONDS, stop=stop)
        try:
            status, content = deadline.run(
                lambda: self._exchange(path, deadline, connections), cancel=lambda: _close(connections)
            )
        except DeadlineError as error:
            raise MeterError(f"{where}: no complete answer within {ANSWER_SECONDS:g} s") from error
        except ssl.SSLCertVerificationError as error:
            reason = error.verify_message or one_line(error)
            raise MeterError(
                f"{where}: the certificate cannot be verified ({reason}); give its authority (--redfish-ca)"
            ) from error
        except OSError as error:
            raise MeterError(f"{where}: {error.strerror or one_line(error)}") from error
        except (http.client.HTTPException, KeplerError) as error:
            raise MeterError(f"{where}: {one_line(error)}") from error
        if status == http.client.NOT_FOUND:
            return None
        if status in (http.client.UNAUTHORIZED, http.client.FORBIDDEN):
            raise MeterError(f"{where}: status {status}: user and password are needed (--redfish-credentials)")
        if status != http.client.OK:
            raise MeterError(f"{where}: status {status}")
        try:
            return decode_json(content, form)
        except DocumentError as error:
            raise MeterError(f"{where}: {error}") from error

    def _exchange(self, path: str, deadline: Deadline, connections: list[Any]) -> tuple[int, bytes]:
        if self._context is None:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=ANSWER_SECONDS)
        else:
            connection = http.client.HTTPSConnection(
                self._host, self._port, timeout=ANSWER_SECONDS, context=self._context
            )
        connections.append(connection)
        try:
            connection.request("GET", path, headers=self._headers)
            response = connection.getresponse()
            return response.status, read_bounded(response, deadline, MAX_ANSWER_BYTES)
        finally:
            connection.close()


def _close(connections: Sequence[http.client.HTTPConnection]) -> None:
    for connection in connections:
        if connection.sock is not None:
            connection.sock.close()


def _tls(settings: RedfishSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise MeterError(f"{settings.ca_file}: no certificates can be read: {one_line(error)}") from error
    if settings.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _credentials(path: Path) -> bytes:
    """Return the text user:password from a file.

    Raises `MeterError`, whose message never contains the file's content.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_CREDENTIALS_BYTES + 1).strip()
    except OSError as error:
        raise MeterError(f"{path}: {error.strerror or error}") from error
    if b":" not in content or len(content) > MAX_CREDENTIALS_BYTES or len(content.splitlines()) != 1:
        raise MeterError(f"{path}: the file must have one line of the form user:password")
    return content
