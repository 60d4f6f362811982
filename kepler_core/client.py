"""A Python client for the estimator."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from kepler_core.documents import DocumentError, decode_object
from kepler_core.errors import KeplerError

DEFAULT_SOCKET = "/tmp/estimator.sock"  # noqa: S108 - Kepler dials this path


class EstimatorError(KeplerError):
    """The estimator could not be reached, or its reply has no watts."""


class Explanation(msgspec.Struct):
    """What an estimator states about the watts of a reply (see docs/estimator.md). Unknown keys are ignored."""

    model: str
    half_width: dict[str, list[float]]
    """Half-width of each row's interval in watts, by component; empty if the model states no intervals."""
    flags: list[str]
    """Reasons to doubt the watts (`kepler_core.honesty.flags`)."""
    level: float | None = None
    """Probability with which an interval is meant to contain the true power."""
    problem: str = ""
    """Why the estimator does not check the model with its twin (a second model with fewer features), or why the
    estimator does not use the model's intervals; empty if there is no problem."""


class EstimatorClient:
    """Sends requests to an estimator on this machine. Like Kepler, it opens a connection for each request."""

    def __init__(self, path: str = DEFAULT_SOCKET, *, timeout: float = 10.0) -> None:
        """Create a client for the estimator that listens at the unix socket `path`.

        `timeout` is the time limit of each operation on the socket, in seconds.
        """
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
        """Return the estimated watts by component, with one number for each row of `values`.

        `values` has shape (rows, metrics) and contains the metrics' rates per second. A component that is missing
        in the result has 0 W. Raises `EstimatorError`.
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
        explain: bool = False,
    ) -> dict[str, Any]:
        """Return the estimator's whole reply: `powers`, `msg` and, if known, `core_ratio`.

        If `explain` is true, the reply also has the key `explanation`, which the method `explanation` reads: the model,
        the half-widths of the intervals and the reasons to doubt the watts.

        `core_ratio` is the number of cores of the estimator's machine, divided by the number of cores of the
        machine that the model was trained for. The arguments are those of the method `watts`. Raises `EstimatorError`.
        """
        reply = self.ask(
            {
                "metrics": list(metrics),
                "values": [list(row) for row in values],
                "output_type": output_type,
                "source": source,
                "trainer_name": trainer_name,
                "filter": filter,
                **({"explain": True} if explain else {}),
            }
        )
        powers = reply.get("powers")
        if not isinstance(powers, dict) or not all(isinstance(watts, list) for watts in powers.values()):
            raise EstimatorError(f"{self.path}: {reply.get('msg') or 'no powers in the reply'}")
        if reply.get("msg") and not any(map(any, powers.values())):
            raise EstimatorError(f"{self.path}: {reply['msg']}")
        if explain:
            self.explanation(reply)
        return reply

    def explanation(self, reply: Mapping[str, Any]) -> Explanation:
        """Return the explanation in a reply to a request with `explain`. Raises `EstimatorError` if it is malformed."""
        if "explanation" not in reply:
            raise EstimatorError(
                f"{self.path}: this estimator does not explain its replies; it may be an older version"
            )
        try:
            explanation = msgspec.convert(reply["explanation"], Explanation)
        except msgspec.ValidationError as error:
            raise EstimatorError(f"{self.path}: the explanation is malformed: {error}") from error
        for component, widths in explanation.half_width.items():
            if len(widths) != len(reply["powers"].get(component, widths)):
                raise EstimatorError(f"{self.path}: the explanation is malformed: it has too few or too many rows")
        return explanation

    def status(self) -> dict[str, Any]:
        """Return the estimator's status. Raises `EstimatorError`, e.g. if the program that replies is no estimator."""
        reply = self.ask({"command": "status"})
        if "requests" not in reply or "models" not in reply:
            raise EstimatorError(f"{self.path}: the reply is not the status of an estimator")
        return reply

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a request and return the reply without checking its keys. Raises `EstimatorError`."""
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
            not_listening = isinstance(error, FileNotFoundError | ConnectionRefusedError)
            hint = "; is `kepler-model serve estimator` running?" if not_listening else ""
            raise EstimatorError(f"{self.path}: {error.strerror or error}{hint}") from error
        try:
            return decode_object(content)
        except DocumentError as error:
            raise EstimatorError(f"{self.path}: the reply is not that of an estimator: {error}") from error
