"""A client of the estimator, for programs and people."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

import msgspec

from kepler_core.errors import KeplerError

DEFAULT_SOCKET = "/tmp/estimator.sock"  # noqa: S108 - where Kepler looks for it


class EstimatorError(KeplerError):
    """The estimator does not answer, or has no answer."""


class EstimatorClient:
    """Asks an estimator on this machine. One connection per question, as Kepler does it."""

    def __init__(self, path: str = DEFAULT_SOCKET, *, timeout: float = 10.0) -> None:
        """`timeout` in seconds."""
        self.path = path
        self.timeout = timeout

    def watts(
        self,
        metrics: Sequence[str],
        values: Sequence[Sequence[float]],
        *,
        output_type: str = "AbsPower",
        source: str = "rapl-sysfs",
        trainer_name: str = "",
        filter: str = "",
    ) -> dict[str, list[float]]:
        """Watts per component, one per row of `values` (shape (rows, metrics), per second).

        A component that the estimator leaves out is 0 W. `EstimatorError` where it has no answer.
        """
        reply = self.reply(
            metrics, values, output_type=output_type, source=source, trainer_name=trainer_name, filter=filter
        )
        powers: dict[str, list[float]] = reply["powers"]
        return powers

    def reply(
        self,
        metrics: Sequence[str],
        values: Sequence[Sequence[float]],
        *,
        output_type: str = "AbsPower",
        source: str = "rapl-sysfs",
        trainer_name: str = "",
        filter: str = "",
    ) -> dict[str, Any]:
        """The same with all that the estimator says: `powers`, `msg`, perhaps `core_ratio`."""
        reply = self.ask(
            {
                "metrics": list(metrics),
                "values": [list(row) for row in values],
                "output_type": output_type,
                "source": source,
                "trainer_name": trainer_name,
                "filter": filter,
            }
        )
        powers = reply.get("powers")
        if not isinstance(powers, dict) or not all(isinstance(watts, list) for watts in powers.values()):
            raise EstimatorError(f"{self.path}: {reply.get('msg') or 'no powers in the reply'}")
        if reply.get("msg") and not any(map(any, powers.values())):
            raise EstimatorError(f"{self.path}: {reply['msg']}")
        return reply

    def status(self) -> dict[str, Any]:
        """What the estimator says of itself; `EstimatorError` from whatever else listens there."""
        found = self.ask({"command": "status"})
        if "requests" not in found or "models" not in found:
            raise EstimatorError(f"{self.path}: not the status of an estimator")
        return found

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The reply to a request as it is; `EstimatorError`."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(self.timeout)
                connection.connect(self.path)
                connection.sendall(msgspec.json.encode(request))
                content = bytearray()
                while piece := connection.recv(65536):
                    content += piece
        except TimeoutError:
            raise EstimatorError(f"{self.path}: no answer within {self.timeout:g} s") from None
        except OSError as error:
            nobody = isinstance(error, FileNotFoundError | ConnectionRefusedError)
            hint = "; is `kepler-model serve estimator` running?" if nobody else ""
            raise EstimatorError(f"{self.path}: {error.strerror or error}{hint}") from error
        try:
            return msgspec.json.decode(content, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise EstimatorError(f"{self.path}: not a reply of an estimator: {error}") from error
