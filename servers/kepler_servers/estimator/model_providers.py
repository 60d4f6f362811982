"""The interface of model providers, and the provider that reads a model store.

The module `remote_providers` has the providers for a model server and for configured URLs. It is imported only if one
of these providers is configured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import attrs
import msgspec

from kepler_core.errors import KeplerError, ModelError
from kepler_core.honesty.document import Twin
from kepler_core.messages import printable, quoted
from kepler_core.models.linear_weights import unmeasured_features
from kepler_core.models.loading import load_model
from kepler_core.models.power_model import PowerModel
from kepler_core.names import is_name
from kepler_core.selection import Catalogue, ModelRequest, Selection
from kepler_core.store.layout import twin_path
from kepler_core.store.manifest import sha256
from kepler_core.store.models import StoredModel
from kepler_servers.live_catalogue import LiveCatalogue

MAX_REMARK_CHARACTERS = 200
MAX_WHY_BYTES = 8 * 2**10
"""Maximum size of the explanation of a loaded model, as JSON. The estimator's status has no room for a longer
explanation."""


class UnreachableError(KeplerError):
    """Error: a model provider did not answer, or its answer was not usable. A later request may succeed."""


class StillRunningError(UnreachableError):
    """Error: a model provider has not answered within the time limit. The call continues in the background."""


@attrs.frozen(eq=False)
class ModelOffer:
    """A model that a provider has selected for a request, but that is not loaded yet."""

    provider: str
    """Name of the model provider that makes the offer."""
    name: str
    """Name of the model in logs and in the status: usually its pipeline and its path."""
    digest: str
    """Identifier of the model's content. It changes whenever the model changes."""
    why: Mapping[str, Any]
    """Explanation of why the provider selected this model."""
    machine_spec: Mapping[str, Any]
    """Description of the machine that the model was trained on."""
    _source: Any
    """The files of the model by name, or an object that loads the model with its method `load`. None after
    `without_files`."""
    remark: str = ""
    """Text about linear weights for replies and for the log (see `stand_in_remark`). Empty for all other models."""
    _find_twin: Callable[[Twin], ModelOffer] | None = None
    """Function that returns the offer of the model's twin (see `kepler_core.models.twins`). None if the provider has no
    other models."""

    def twin(self, twin: Twin) -> ModelOffer:
        """Return the offer of the model's twin. `twin` is the description of the twin in the model's metadata.

        Raises `KeplerError` if the provider does not have the twin, or does not answer.
        """
        if self._find_twin is None:
            raise ModelError(f"{self.provider} has no other models, so the twin {twin.model_name} is missing")
        return self._find_twin(twin)

    def without_files(self) -> ModelOffer:
        """Return a smaller copy of this offer, without the model's files, machine description and long explanation.

        The model cache stores such a copy for each model key after the model is loaded. The parts that are left out
        would only take memory.
        """
        why = self.why if len(msgspec.json.encode(self.why)) <= MAX_WHY_BYTES else {}
        return attrs.evolve(self, source=None, machine_spec={}, why=why, find_twin=None)

    def is_logged_as(self, other: ModelOffer) -> bool:
        """Return whether the log messages about this offer and about the offer `other` are equal."""
        return (self.provider, self.name, self.remark) == (other.provider, other.name, other.remark)

    def load(self) -> PowerModel:
        """Load the model into memory. Raises `ModelError` or `StoreError` if it cannot be loaded."""
        if isinstance(self._source, Mapping):
            return load_model(self._source, self.name, resident=True)
        model: PowerModel = self._source.load(resident=True)
        return model


class ModelProvider(Protocol):
    """Interface of a model provider: a model server, configured URLs, or a model store."""

    name: str

    def offer(self, request: ModelRequest) -> ModelOffer:
        """Return the provider's best model for a request.

        Raises `NoModelError` if no model meets the request's conditions. Raises `UnreachableError` if the
        provider does not answer or its answer is not usable.
        """

    def changed(self) -> bool:
        """Return whether the provider's models may have changed since the previous call of this method.

        The method must be cheap, because it is called every few seconds.
        """


class StoreProvider:
    """Provider of the models in a model store that the estimator reads itself."""

    def __init__(self, live: LiveCatalogue) -> None:
        self.name = f"store {live.store.location}"
        self._live = live
        self._was_read = False

    def offer(self, request: ModelRequest) -> ModelOffer:
        if not self._was_read:
            self.changed()
        if self._live.store_problem is not None and not self._live.current.models:
            raise UnreachableError(self._live.store_problem, document="store")
        catalogue = self._live.current
        return offer_of(catalogue.select(request), self.name, catalogue)

    def changed(self) -> bool:
        self._was_read = True
        return self._live.refresh()


def offer_of(selection: Selection, provider: str, catalogue: Catalogue | None = None) -> ModelOffer:
    """Return a provider's offer of the selected model.

    `catalogue` has all models of the provider, among them the twin of the selected model. It is None if the provider
    has only the selected model.
    """
    model = selection.model
    name = f"{model.pipeline}/{model.path}"
    linear = model.linear_weights
    wanted = "" if (other := selection.stands_in_for) is None else f"{other.pipeline}/{other.path}"
    remark = "" if linear is None else stand_in_remark(linear, name, wanted)

    def find_twin(twin: Twin) -> ModelOffer:
        assert catalogue is not None
        path = checked_twin_path(model.path, twin)
        stored = catalogue.by_path(model.pipeline, path)
        if stored is None:
            raise ModelError(f"{provider}: no model {path}, the twin of {model.name}")
        return _offer_of_model(stored, provider, {})

    offer = _offer_of_model(model, provider, selection.explain(), remark)
    return offer if catalogue is None else attrs.evolve(offer, find_twin=find_twin)


def _offer_of_model(model: StoredModel, provider: str, why: Mapping[str, Any], remark: str = "") -> ModelOffer:
    return ModelOffer(
        provider,
        f"{model.pipeline}/{model.path}",
        # A published version never changes, so the path identifies its models. Models that were copied into the
        # store by hand may change. Therefore the digest of the metadata and weights is added.
        f"{model.snapshot.where}/{model.path}:{sha256(model.encoded + (model.linear_weights or b''))}",
        why,
        model.machine_spec,
        model,
        remark,
    )


def checked_twin_path(path: str, twin: Twin) -> str:
    """Return the path of the twin of the model at `path`.

    Raise `ModelError` if a part of the path is not a valid name.
    """
    if not (is_name(twin.feature_group) and is_name(twin.model_name)):
        raise ModelError(f"{quoted(twin.feature_group, 60)}/{quoted(twin.model_name, 60)}: invalid path of a twin")
    return twin_path(path, twin)


def stand_in_remark(linear: bytes, name: str, wanted: str) -> str:
    """Return the remark about the linear weights of the model `name`: what they replace, and what they do not use.

    `linear` is the content of the weights. `wanted` is the name of the model that these weights replace; it is empty if
    they replace no model. `name` and `wanted` may begin with a pipeline and a path. The remark is part of replies,
    which must be short. So it leaves out pipeline and path, unless both names would then be equal.
    """
    remarks = []
    if wanted and wanted != name:
        short_name, short_wanted = name.rpartition("/")[2], wanted.rpartition("/")[2]
        names = (name, wanted) if short_name == short_wanted else (short_name, short_wanted)
        remarks.append(f"linear weights of {names[0]} stand in for {names[1]}")
    if unmeasured := unmeasured_features(linear):
        remarks.append(f"{', '.join(unmeasured)}: at most 1/s in training, so not used")
    return printable("; ".join(remarks), MAX_REMARK_CHARACTERS)
