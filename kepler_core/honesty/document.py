"""The block `honesty` in a model's `metadata.json`: errors, intervals, and the range of the training data.

The training of a pipeline (`kepler_core.pipeline`) writes the block. Selection, the servers and the commands read it
with `read_honesty`. Models from other programs have no such block.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from kepler_core.documents import MAX_NUMBER
from kepler_core.errors import ModelError

HONESTY_KEY = "honesty"
"""Key of a model's `metadata.json`. Its value is a block with the model's errors, intervals and training data."""

SplitName = Literal["blocks", "regimes", "recordings", "nodes"]
"""A way to hold out data: blocks of time, regimes (kinds of work), whole recordings, or whole nodes."""

SPLIT_NAMES: tuple[SplitName, ...] = ("blocks", "regimes", "recordings", "nodes")

MAX_NODE_NAMES = 100
"""Maximum number of names of nodes in the metadata of a model (`Seen.node_names`)."""

Finite = Annotated[float, msgspec.Meta(ge=-float(MAX_NUMBER), le=float(MAX_NUMBER))]
Watts = Annotated[float, msgspec.Meta(ge=0, le=float(MAX_NUMBER))]
Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_NUMBER)]


class ComponentErrors(msgspec.Struct, forbid_unknown_fields=True):
    """Errors of one component on the data that one split holds out."""

    mae: Watts
    """Mean absolute error in watts."""
    bias: Finite
    """Mean of (predicted − measured) watts."""
    idle_bias: Finite
    """Mean of (predicted − measured) watts in the tenth of the rows with the least load."""
    rows: Count
    """Number of rows in which predicted and measured power were compared."""
    mape: Watts | None = None
    """Mean absolute error in percent of the measured power; None if the measured power was nearly 0 W."""


class SplitErrors(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Errors on the data that one split holds out."""

    mae: Watts
    """The largest mean absolute error of all components, in watts."""
    components: dict[str, ComponentErrors]
    parts: Count
    """Number of parts that were held out one after the other: folds, regimes, recordings or groups of nodes."""
    worst: Watts | None = None
    """Mean absolute error on the hardest held-out part, in watts: the largest error of all parts and components. Models
    are ranked by this error, because the mean over all parts hides how wrong a model is for work that is unlike its
    training data. With three nodes or more, the error is computed without the gains of the nodes (the factors between
    machines of one type). So it can be lower than `mae`. None after a recalibration: then models are ranked by
    `mae`."""
    standard_error: Watts | None = None
    """Standard error of `mae` in watts, from the errors on the held-out parts. Only a recalibration sets it."""
    earlier: Watts | None = None
    """Error of this trainer's model before the recalibration, in watts: the mean absolute error on the split where it
    was largest. None if there was no recalibration, or if the trainer had no earlier model. See
    `kepler_core.selection.ranking`."""

    @property
    def hardest(self) -> float:
        """Mean absolute error in watts on the hardest held-out part or, if it is not known, on all parts."""
        return self.mae if self.worst is None else self.worst


class Seen(msgspec.Struct, forbid_unknown_fields=True):
    """The data that a model was trained on."""

    recordings: Count
    days: Count
    """Number of different days (in UTC) with a sample."""
    nodes: Count
    samples: Count
    """Number of samples. A sample is one node at one timestamp."""
    features: dict[str, tuple[Finite, Finite]]
    """Lowest and highest value of each feature of a whole node, in the unit of `kepler_core.vocabulary`."""
    ratios: dict[str, tuple[Finite, Finite]] = {}
    """Lowest and highest ratio of two features of a whole node, by name, e.g. `instructions_per_cycle`."""
    node_names: list[str] = []
    """Names of the nodes, at most `MAX_NODE_NAMES`."""


class IntervalTerms(msgspec.Struct, forbid_unknown_fields=True):
    """The errors from which `kepler_core.honesty.interval` computes the intervals of one component."""

    lowest: Watts
    """Lowest measured power of a node, in watts."""
    highest: Watts
    """Highest measured power of a node, in watts."""
    edges: list[Watts]
    """Predicted watts that separate the load bins (ranges of predicted power), ascending."""
    quantiles: list[Watts]
    """Conformal quantile of the absolute error in each load bin, in watts. The list has one item more than `edges`."""
    session: Watts
    """Error between two sessions (days) of one machine, in watts: the quantile of this error at the level
    `Honesty.level`."""
    machine_idle: Watts
    """Error between two machines of one node type at the lowest power, as a fraction of the predicted power."""
    machine_loaded: Watts
    """Error between two machines of one node type at the highest power, as a fraction of the predicted power."""
    noise: Watts
    """Noise floor: standard deviation of the measured power while the load is steady, in watts."""
    session_measured: bool = False
    """Whether the error between sessions was measured with several recordings. If not, `session` is a prior or 0."""
    machine_measured: bool = False
    """Whether `machine_idle` and `machine_loaded` were measured with several nodes. If not, they are the priors in
    `kepler_core.honesty.interval`."""


class Twin(msgspec.Struct, forbid_unknown_fields=True):
    """The model that checks this model's predictions. It needs fewer features, and is in the same pipeline."""

    model_name: str
    feature_group: str
    limits: dict[str, Watts]
    """By component: the 99 % quantile of the difference between the predictions of model and twin in the validation."""


class Honesty(msgspec.Struct, forbid_unknown_fields=True):
    """The block `honesty`: the errors of a model, its training data, and the errors that make up its intervals."""

    splits: dict[SplitName, SplitErrors | None]
    """Errors by split; None if the errors of a split were never measured, e.g. `nodes` in a training with one node."""
    hardest: SplitName
    """The measured split with the largest error. Models are ranked by their error on this split."""
    seen: Seen
    level: Annotated[float, msgspec.Meta(gt=0, lt=1)]
    """Probability with which an interval is meant to contain the true power, e.g. 0.9."""
    intervals: dict[str, IntervalTerms]
    """The errors that make up the interval, by component. Empty for DynPower models: the power of a container is
    never measured."""
    twin: Twin | None = None

    @property
    def hardest_errors(self) -> SplitErrors:
        """The errors on the split with the largest error (`hardest`)."""
        errors = self.splits[self.hardest]
        assert errors is not None  # `read_honesty` has checked that the hardest split has errors
        return errors


def read_honesty(metadata: Mapping[str, Any]) -> Honesty | None:
    """Return the block `honesty` of a model's metadata; None if the metadata have no such block.

    Raises `ModelError` if the block does not fit the schema `Honesty`, or contradicts itself.
    """
    if HONESTY_KEY not in metadata:
        return None
    try:
        honesty = msgspec.convert(metadata[HONESTY_KEY], Honesty)
    except msgspec.ValidationError as error:
        raise ModelError(f"metadata.json: {HONESTY_KEY}: {error}") from error
    for component, terms in honesty.intervals.items():
        if len(terms.quantiles) != len(terms.edges) + 1 or terms.edges != sorted(terms.edges):
            raise ModelError(f"metadata.json: {HONESTY_KEY}: the load bins of {component} are not consistent")
    if honesty.splits.get(honesty.hardest) is None:
        raise ModelError(f"metadata.json: {HONESTY_KEY}: the hardest split {honesty.hardest} was never measured")
    return honesty
