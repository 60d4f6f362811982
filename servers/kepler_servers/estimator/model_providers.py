"""The interface of model providers, and the provider for a local store.

The providers that need a network are in `remote_providers`, which is imported only if one is configured.
"""

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
    """A provider did not answer, or its answer was not usable. A later request may succeed."""


class StillRunningError(UnreachableError):
    """A provider has not answered within the time limit. Its request continues in the background."""


@attrs.frozen(eq=False)
class ModelOffer:
    """The model that a provider chose for a request, not loaded yet."""

    provider: str
    """Name of the provider."""
    name: str
    """Name for logs and the status: pipeline and path, or a URL."""
    digest: str
    """Identifies the model's content: it changes whenever the model changes."""
    why: Mapping[str, Any]
    """The explanation of the selection."""
    machine_spec: Mapping[str, Any]
    """Description of the machine that the model was trained on."""
    _source: Any

    def load(self) -> PowerModel:
        """Load the model. Raises `ModelError` or `StoreError`."""
        if isinstance(self._source, Mapping):
            return load_model(self._source, self.name, resident=True)
        model: PowerModel = self._source.load(resident=True)
        return model


class ModelProvider(Protocol):
    """A place where the estimator gets models from."""

    name: str

    def offer(self, request: ModelRequest) -> ModelOffer:
        """Return the provider's best model for a request.

        Raises `NoModelError` if no model meets the request's conditions, and `UnreachableError` if the
        provider cannot tell.
        """

    def changed(self) -> bool:
        """Return whether the provider's models may have changed since the last call. Must be cheap."""


class StoreProvider:
    """Provides the models of a store that this process reads itself."""

    def __init__(self, live: LiveCatalogue) -> None:
        self.name = f"store {live.store.location}"
        self._live = live
        self._was_read = False

    def offer(self, request: ModelRequest) -> ModelOffer:
        if not self._was_read:
            self.changed()
        if self._live.store_problem is not None and not self._live.current.models:
            raise UnreachableError(self._live.store_problem)
        return offer_of(self._live.current.select(request), self.name)

    def changed(self) -> bool:
        self._was_read = True
        return self._live.refresh()


def offer_of(selection: Selection, provider: str) -> ModelOffer:
    """Return a catalogue's selection as the offer of a provider."""
    model = selection.model
    return ModelOffer(
        provider,
        f"{model.pipeline}/{model.path}",
        # A published version never changes, so its path is enough. The metadata's digest covers models
        # that were copied into the store by hand.
        f"{model.snapshot.where}/{model.path}:{sha256(model.encoded)}",
        selection.explain(),
        model.machine_spec,
        model,
    )
