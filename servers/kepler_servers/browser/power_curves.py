"""The power curves of stored models, computed one after the other in processes of their own, and cached."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import msgspec

from kepler_core.errors import KeplerError
from kepler_core.messages import printable, shortened
from kepler_core.store.models import StoredModel
from kepler_servers.browser.curve_process import MAX_ARCHIVE_BYTES, Curve

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 8.0
"""Time limit for the curve of one model. Granian waits 10 s for the end of a worker process."""
MAX_WAITING = 8
"""Maximum number of curves that wait until they are computed. Pages of further models have no curve."""
MAX_CURVES = 256
"""Maximum number of curves in the cache. A curve of two components takes about 3 kB."""

_decoder = msgspec.json.Decoder(Curve)
_ERROR_CHARACTERS = 300


class PowerCurves:
    """Computes the power curves of models. All methods may be called from several threads."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="curve")
        self._lock = threading.Lock()
        self._curves: dict[tuple[str, str, str], Future[Curve]] = {}
        """Curves by pipeline, path and digest of the model, in the order of their requests."""

    def curve(self, model: StoredModel) -> Future[Curve]:
        """Return the future with the curve of a model. The curve has a reason if it cannot be computed."""
        if not model.portable:
            return _done(Curve(reason=model.no_linear_weights or "only the archives of Kepler Core are evaluated"))
        record = model.archive_record
        if record is not None and record.size > MAX_ARCHIVE_BYTES:
            return _done(Curve(reason=f"the model's zip file is larger than {MAX_ARCHIVE_BYTES >> 20} MiB"))
        key = model.pipeline, model.path, record.sha256 if record is not None else str(model.snapshot.version)
        with self._lock:
            future = self._curves.get(key)
            if future is not None and not (future.done() and future.result().reason):
                return future  # a curve that failed is computed again: the machine may have been too busy
            if sum(not waiting.done() for waiting in self._curves.values()) >= MAX_WAITING:
                return _done(Curve(reason="many other curves are being computed; load the page again in a minute"))
            while len(self._curves) >= MAX_CURVES:
                del self._curves[next(iter(self._curves))]
            future = self._curves[key] = self._thread.submit(_compute, model)
            return future


def _done(curve: Curve) -> Future[Curve]:
    future: Future[Curve] = Future()
    future.set_result(curve)
    return future


def _compute(model: StoredModel) -> Curve:
    where = printable(f"{model.pipeline}/{model.path}")
    try:
        archive = model.archive()
    except KeplerError as error:
        return Curve(reason=str(error))
    command = [sys.executable, "-m", "kepler_servers.browser.curve_process"]
    try:
        # One thread, because each thread of a library would reserve address space.
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
