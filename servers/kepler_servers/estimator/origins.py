"""Where a model can come from. Here: the local store; `remote_origins` has what needs a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import attrs

from kepler_core.errors import KeplerError
from kepler_core.models.loading import load_model
from kepler_core.models.power_model import PowerModel
from kepler_core.selection import ModelRequest, Selection
from kepler_core.store.manifest import sha256
from kepler_servers.live_catalogue import LiveCatalogue


class UnreachableError(KeplerError):
    """An origin that does not answer, or not as it should: perhaps it will later."""


class NotYetError(UnreachableError):
    """An origin that is still to answer: asking again soon may have an outcome."""


@attrs.frozen(eq=False)
class Offer:
    """A model that an origin has for a request; loading it is another step."""

    origin: str
    name: str
    """For people: pipeline and path, or a URL."""
    digest: str
    """Changes when the model does."""
    why: Mapping[str, Any]
    machine_spec: Mapping[str, Any]
    """The machine that the model is of."""
    _source: Any

    def load(self) -> PowerModel:
        """The model; `ModelError` or `StoreError`."""
        if isinstance(self._source, Mapping):
            return load_model(self._source, self.name, resident=True)
        found: PowerModel = self._source.load(resident=True)
        return found


class Origin(Protocol):
    """Somewhere to ask for models."""

    name: str

    def offer(self, request: ModelRequest) -> Offer:
        """The model for a request; `NoModelError` where it has none that fits, `UnreachableError` where
        it cannot say."""

    def changed(self) -> bool:
        """Whether asking again may have another outcome although nobody waited long; cheap."""


class StoreOrigin:
    """The models of a store that this process reads itself."""

    def __init__(self, live: LiveCatalogue) -> None:
        self.name = f"store {live.store.location}"
        self._live = live
        self._looked = False

    def offer(self, request: ModelRequest) -> Offer:
        if not self._looked:
            self.changed()
        if self._live.store_problem is not None and not self._live.current.models:
            raise UnreachableError(self._live.store_problem)
        return offer_of(self._live.current.select(request), self.name)

    def changed(self) -> bool:
        self._looked = True
        return self._live.refresh()


def offer_of(selection: Selection, origin: str) -> Offer:
    model = selection.model
    return Offer(
        origin,
        f"{model.pipeline}/{model.path}",
        # a version is never changed; what was copied by hand says by its metadata that it is another
        f"{model.snapshot.where}/{model.path}:{sha256(model.encoded)}",
        selection.explain(),
        model.machine_spec,
        model,
    )
