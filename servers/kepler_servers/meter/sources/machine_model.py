"""The power source that uses a model from `kepler-model machines fit` and the description of this machine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from kepler_core.errors import KeplerError, MeterError
from kepler_core.messages import one_line
from kepler_core.metering import Observation, Reading
from kepler_profiler.machine_model import (
    SOURCE,
    MachineModel,
    find_machine_model,
    machine_honesty,
    own_features,
)
from kepler_servers.meter.sources.formula import FormulaSource, IdleShare
from kepler_servers.meter.sources.power_source import Kind
from kepler_servers.meter.this_machine import ThisMachine

REFRESH_SECONDS = 600.0
"""Interval at which a better model is searched for."""
RETRY_SECONDS = 60.0
"""Interval at which a model is searched for while there is none, or while the store or model server cannot be read."""

Finder = Callable[[bool], MachineModel]
"""Function that returns the best model. Its argument tells whether the idle power is known. Raises `KeplerError` if no
model fits."""


def model_of_store(location: str) -> Finder:
    """Return a function that finds a model in the store at a folder or URL."""

    def find(idle_known: bool) -> MachineModel:
        from kepler_core.store import open_store

        return find_machine_model(open_store(location), idle_known=idle_known)

    return find


def model_of_server(url: str) -> Finder:
    """Return a function that gets a model from a model server. `url` is the result of `model_request_url`.

    The request names the features that can be read on the machine itself. So the model server can return only models of
    `machines fit`.
    """

    def find(idle_known: bool) -> MachineModel:
        from kepler_core.selection import ModelRequest
        from kepler_servers.estimator.remote_providers import ModelServerProvider

        request = ModelRequest("AbsPower", metrics=own_features(idle_known=idle_known), source=SOURCE)
        provider = ModelServerProvider(url)
        try:
            offer = provider.offer(request)
            model = offer.load()
            honesty = machine_honesty(model.metadata, model.features)
        except KeplerError as error:
            raise MeterError(
                f"{provider.name}: no model can estimate power from a machine's description: {error.message}"
            ) from error
        version = offer.why.get("version")
        return MachineModel(offer.name, "" if version is None else str(version), model, honesty)

    return find


class MachineModelSource:
    """A model in place of the machine formula: it estimates the whole machine's power from its description and load.

    A background thread reads the store or asks the model server. While they cannot be read, the loaded model stays in
    use.
    """

    kind: Kind = "model"
    name = "machine-model"

    def __init__(
        self,
        finders: Sequence[Finder],
        machine: ThisMachine,
        *,
        idle_watts: float | None = None,
        idle_share: IdleShare = "reservation",
    ) -> None:
        """`finders` are called in order, until one finds a model. See `FormulaSource` for the other arguments."""
        self._finders = tuple(finders)
        self._make: Callable[[MachineModel], FormulaSource] = lambda model: FormulaSource(
            machine, idle_watts=idle_watts, idle_share=idle_share, model=model
        )
        self._idle_known = idle_watts is not None
        self._source: FormulaSource | None = None
        self._rank = 0
        """Index in `_finders` of the function that has found the model in use."""
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
        while not stop.is_set():
            problems: list[str] = []
            for rank, find in enumerate(self._finders):
                if self._source is not None and rank > self._rank:
                    break  # later finders are less preferred than the finder of the model in use
                try:
                    source = self._make(find(self._idle_known))
                    self._source, self._rank, self._problem = source, rank, ""
                    break
                except KeplerError as error:
                    problems.append(str(error))
                except Exception as error:  # a defect must not end the thread without a reason
                    problems.append(f"a defect: {one_line(error)}")
            else:
                self._problem = "; ".join(problems)
            stop.wait(RETRY_SECONDS if problems else REFRESH_SECONDS)
