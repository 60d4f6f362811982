"""Compute the power curves of stored models one after the other, in separate processes, and cache the curves."""

from __future__ import annotations

import logging
import os
import queue
import subprocess
import sys
import threading
import time

import attrs
import msgspec

from kepler_core.errors import KeplerError
from kepler_core.messages import printable, shortened
from kepler_core.store.models import StoredModel
from kepler_servers.browser.curve import Curve, curve_of

log = logging.getLogger(__name__)

MAX_ARCHIVE_BYTES = 64 * 2**20
"""Maximum size of the zip file of a model whose curve is drawn."""
TIMEOUT_SECONDS = 30.0
"""Time limit for the curve of one model. `curve_process` has a much lower limit for its CPU time. On a machine that is
busy with other work, the process may wait long for the CPU."""
RETRY_SECONDS = 60.0
"""Time after which a failed computation of a curve is repeated, if the page of the model is requested again."""
MAX_WAITING = 8
"""Maximum number of curves that wait to be computed. Until fewer curves wait, pages of other models have no curve."""
MAX_CURVES = 256
"""Maximum number of curves in the cache. A curve of two components takes about 3 kB."""

_decoder = msgspec.json.Decoder(Curve)
_ERROR_CHARACTERS = 300


@attrs.define
class _Entry:
    """A curve in the cache."""

    curve: Curve | None = None
    """The curve; None until it is computed."""
    computed: float = 0.0
    """Value of `time.monotonic()` when the curve was computed."""


class PowerCurves:
    """Computes the power curves of models. All methods are thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: queue.SimpleQueue[tuple[_Entry, StoredModel]] = queue.SimpleQueue()
        self._entries: dict[tuple[str, str, str], _Entry] = {}
        """The curves in the order in which they were requested. A key is the pipeline, path and digest of a model."""
        self._thread: threading.Thread | None = None

    def curve(self, model: StoredModel) -> Curve | None:
        """Return the power curve of a model; None while the curve is being computed.

        If the curve cannot be computed, the result contains only the reason.
        """
        if not model.loadable:
            return Curve(reason=model.no_linear_weights or "")
        record = model.archive_record
        if record is not None and record.size > MAX_ARCHIVE_BYTES:
            return Curve(reason=f"the model's zip file is larger than {MAX_ARCHIVE_BYTES >> 20} MiB")
        key = model.pipeline, model.path, record.sha256 if record is not None else str(model.snapshot.version)
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None and not _is_to_retry(entry):
                return entry.curve
            if sum(other.curve is None for other in self._entries.values()) >= MAX_WAITING:
                return Curve(reason="many other curves are being computed; load the page again in a minute")
            while len(self._entries) >= MAX_CURVES:
                del self._entries[next(iter(self._entries))]
            entry = self._entries[key] = _Entry()
            if self._thread is None:
                # The thread is a daemon thread, so that the server does not wait for a curve when it stops.
                self._thread = threading.Thread(target=self._run, name="curves", daemon=True)
                self._thread.start()
        self._waiting.put((entry, model))
        return None

    def _run(self) -> None:
        while True:
            entry, model = self._waiting.get()
            try:
                curve = _compute(model)
            except Exception as error:  # a defect that occurs with one model must not end the thread
                log.exception("the power curve of %s failed", printable(model.path))
                curve = Curve(reason=f"a defect of the server: {type(error).__name__}")
            with self._lock:
                entry.curve, entry.computed = curve, time.monotonic()
            del entry, model  # otherwise the waiting thread would keep the model of an old version in memory


def _is_to_retry(entry: _Entry) -> bool:
    """Return whether the computation of a curve failed long enough ago to repeat it.

    The cause may have been temporary: a busy machine, or an unreachable store.
    """
    failed = entry.curve is not None and bool(entry.curve.reason)
    return failed and time.monotonic() - entry.computed > RETRY_SECONDS


def _compute(model: StoredModel) -> Curve:
    where = printable(f"{model.pipeline}/{model.path}")
    try:
        if not model.portable:
            return curve_of(model.load())  # the model is linear weights, which this process has in memory
        archive = model.archive()
    except KeplerError as error:
        return Curve(reason=str(error))
    command = [sys.executable, "-m", "kepler_servers.browser.curve_process"]
    try:
        # The libraries may use only one thread, because each of their threads would reserve address space.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        process = subprocess.run(  # noqa: S603 (a process of our own interpreter)
            command, input=archive, capture_output=True, timeout=TIMEOUT_SECONDS, check=False, env=environment
        )
        if process.returncode == 0:
            return _decoder.decode(process.stdout)
    except subprocess.TimeoutExpired:
        return Curve(reason=f"evaluating the model takes more than {TIMEOUT_SECONDS:g} s")
    except (OSError, msgspec.MsgspecError) as error:
        log.warning("the power curve of %s cannot be computed: %s", where, error)
        return Curve(reason="the process that evaluates the model cannot be started or has failed")
    last = process.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
    log.warning("the power curve of %s cannot be computed: %s", where, printable(shortened(last, _ERROR_CHARACTERS)))
    return Curve(reason=f"the process that evaluates the model has ended with exit code {process.returncode}")
