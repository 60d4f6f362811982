"""The power source that uses a model from `kepler-model machines fit` and the description of this machine."""

from __future__ import annotations

import threading
from collections.abc import Callable

from kepler_core.errors import KeplerError, MeterError
from kepler_core.messages import one_line
from kepler_core.metering import Observation, Reading
from kepler_profiler.machine_model import MachineModel, find_machine_model
from kepler_servers.meter.sources.formula import FormulaSource, IdleShare
from kepler_servers.meter.sources.power_source import Kind
from kepler_servers.meter.this_machine import ThisMachine

REFRESH_SECONDS = 600.0
"""Interval at which the store is searched for a better model."""
RETRY_SECONDS = 60.0
"""Interval at which the store is searched again if it has no such model, or cannot be read."""


class MachineModelSource:
    """A model in place of the machine formula: it estimates the whole machine's power from its description and load.

    A background thread reads the store. While the store cannot be read, the loaded model stays in use.
    """

    kind: Kind = "model"
    name = "machine-model"

    def __init__(
        self,
        location: str,
        machine: ThisMachine,
        *,
        idle_watts: float | None = None,
        idle_share: IdleShare = "reservation",
    ) -> None:
        """`location` is the folder or URL of the store. See `FormulaSource` for the other arguments."""
        self._location = location
        self._make: Callable[[MachineModel], FormulaSource] = lambda model: FormulaSource(
            machine, idle_watts=idle_watts, idle_share=idle_share, model=model
        )
        self._idle_known = idle_watts is not None
        self._source: FormulaSource | None = None
        self._problem = ""
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def read(self, observation: Observation) -> Reading | None:
        if self._thread is None:
            self._stop = threading.Event()
            self._thread = threading.Thread(target=self._search, args=(self._stop,), name="meter-machine-model")
            self._thread.daemon = True
            self._thread.start()
        if self._source is not None:
            return self._source.read(observation)
        if self._problem:
            raise MeterError(self._problem)
        return None

    def close(self) -> None:
        """Stop the thread without waiting for it. The thread ends after its present search."""
        self._stop.set()
        self._thread = None

    def _search(self, stop: threading.Event) -> None:
        from kepler_core.store import open_store

        while not stop.is_set():
            try:
                model = find_machine_model(open_store(self._location), idle_known=self._idle_known)
                source = self._make(model)
            except KeplerError as error:
                self._problem = str(error)
            except Exception as error:  # a defect must not end the thread without a reason
                self._problem = f"a defect: {one_line(error)}"
            else:
                self._source, self._problem = source, ""
            stop.wait(RETRY_SECONDS if self._problem else REFRESH_SECONDS)
