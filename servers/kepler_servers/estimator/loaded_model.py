"""Loaded models, together with the data that check and explain their predictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from kepler_core.errors import KeplerError
from kepler_core.honesty.document import Honesty, read_honesty
from kepler_core.honesty.interval import MachineMatch, other_type
from kepler_core.honesty.node_names import host_of
from kepler_core.messages import one_line
from kepler_core.models.power_model import PowerModel
from kepler_core.models.twins import TwinnedModel, twinned
from kepler_servers.estimator.model_providers import ModelOffer


@attrs.frozen(eq=False)
class Check:
    """The data with which the estimator checks a model's predictions: the block `honesty` and the twin.

    The block `honesty` has the errors of the model and the range of its training. The twin is a second model with fewer
    features, whose predictions are compared with those of the model.
    """

    twinned: TwinnedModel
    """The model, and its twin if there is one. `TwinnedModel.watts` makes the predictions."""
    honesty: Honesty | None = None
    """The block `honesty` (errors and intervals) of the model's metadata; None if it is missing or malformed."""
    twin_name: str = ""
    """Name of the twin: its `ModelOffer.name`; empty if there is no twin."""
    twin_digest: str = ""
    """Digest of the twin: its `ModelOffer.digest`; empty if there is no twin."""
    problem: str = ""
    """The reason why the twin that the metadata name, or the block `honesty` of the metadata, cannot be used."""


@attrs.frozen(eq=False)
class LoadedModel:
    """A model in memory, and a model provider's offer of this model for one model key.

    Several model keys may share a model in memory, but each key has its own offer. The texts of the offers may differ:
    the same linear weights may replace one model for one key, and another model for another key.
    """

    model: PowerModel
    offer: ModelOffer
    provider: str
    """Name of the model provider that made the offer."""
    core_ratio: float | None
    """Cores of this machine ÷ cores of the machine that the model was trained on; None if a number is unknown."""
    loaded_at: float
    check: Check

    @property
    def problem(self) -> str:
        return self.check.problem

    def match(self, host_name: str) -> MachineMatch:
        """Return how well this machine matches the machines of the model's training.

        `host_name` is the name of this machine.

        The result contains the similarity of this machine to the model's machine. A lower similarity makes the
        intervals wider. The model was trained on this machine if the training had a node with its name and an equal
        description.
        """
        node_type = self.offer.why.get("node_type")
        node_type = node_type if isinstance(node_type, Mapping) else {}
        similarity: Any = node_type.get("similarity")
        if node_type.get("match") == "exact":
            names = [] if self.check.honesty is None else self.check.honesty.seen.node_names
            return MachineMatch(trained=any(is_host(name, host_name) for name in names))
        is_known = isinstance(similarity, int | float) and not isinstance(similarity, bool)
        return other_type(float(similarity) if is_known else None)


def with_twin(model: PowerModel, offer: ModelOffer, models: Mapping[str, PowerModel]) -> Check:
    """Return the model with its twin, if the metadata name a twin, and with its block `honesty` (errors).

    `models` maps digests to loaded models. The function loads the twin only if `models` does not contain it. If the
    twin cannot be loaded, `Check.problem` states the reason, and the model is used without a twin.
    """
    honesty = None
    try:
        honesty = read_honesty(model.metadata)
        if honesty is None or honesty.twin is None:
            return Check(TwinnedModel(model), honesty)
        twin_offer = offer.twin(honesty.twin)
        twin = models.get(twin_offer.digest) or twin_offer.load()
        return Check(twinned(model, twin, honesty.twin), honesty, twin_offer.name, twin_offer.digest)
    except KeplerError as error:
        return Check(TwinnedModel(model), honesty, problem=one_line(error, 200))


def is_host(node: str, host_name: str) -> bool:
    """Return whether a node's name, e.g. `node7.example:9102` from a label `instance`, is the name of this machine."""
    host = host_of(node)
    return host is not None and host_name in (host, host.split(".", maxsplit=1)[0])
