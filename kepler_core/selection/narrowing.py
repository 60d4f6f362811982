"""Narrow the models of a catalogue, criterion by criterion, to those that meet a request.

The criteria are applied in a fixed order: output type, pipeline, feature group, energy source, trainer,
features, model format, weights. If no model is left after a criterion, the error names this criterion.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from types import MappingProxyType

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, IndexArray
from kepler_core.errors import NoModelError, PluginError, close_matches
from kepler_core.messages import first_of, shortened
from kepler_core.models.kepler_weights import KEPLER_CURVES, LINEAR_TRAINER
from kepler_core.plugins import registry
from kepler_core.selection.columns import ModelColumns
from kepler_core.selection.explanation import Drop, no_model
from kepler_core.selection.ranking import Ranking
from kepler_core.selection.request import ModelRequest
from kepler_core.store.documents import NO_STORED_WEIGHTS

_MAX_NAMED_FEATURES = 5
_MAX_NAMED_REASONS = 3
_NAME_CHARACTERS = 100
_METRICS_CHARACTERS = 300
_NOT_PICKLED = (
    "the estimator of kepler-model-server cannot load the models of Kepler Core; "
    'other clients request weights with "weight": true, or archives of Kepler Core with "portable": true'
)


@attrs.define(eq=False)
class Candidates:
    """The models that meet the criteria of a request, before the request's filter and machine are considered."""

    rows: IndexArray
    node_types: IndexArray
    """Codes of the node types of the models in `rows`, each code once."""
    dropped: tuple[Drop, ...]
    rankings: dict[tuple[int, ...], Ranking] = attrs.field(factory=dict)
    """Cache for requests without a filter: the rankings of models, by the codes of the models' node types."""


def usable_feature_sets(columns: ModelColumns, metrics: Collection[str] | None) -> tuple[int, ...]:
    """Return the codes of the feature sets that need only features in `metrics`. If it is None, return all codes."""
    sets = columns.feature_sets.values
    if metrics is None:
        return tuple(range(len(sets)))
    available = frozenset(metrics)
    return tuple(code for code, needed in enumerate(sets) if needed <= available)


def narrow(
    columns: ModelColumns,
    request: ModelRequest,
    sources: frozenset[str],
    usable: tuple[int, ...],
    broken: Mapping[str, str],
    location: str,
) -> Candidates:
    """Return the models that meet the criteria of a request, before its filter and its machine are considered.

    `sources` are the energy sources that the source name in the request stands for. `usable` are the codes of the
    feature sets that contain only features in the request's metrics. `broken` and `location` appear in the error
    message for an empty catalogue. Raises `NoModelError` if no model is left; its message names the criterion that
    excluded the last model.
    """
    if not columns.models:
        problem = "".join(f"; {name} is broken: {why}" for name, why in sorted(broken.items())[:1])
        raise no_model(f"{location}: no models in it{problem}", 0, ())
    narrowing = _Narrowing(columns)
    for criterion, name, value in (
        ("output type", "output_type", request.output_type),
        ("pipeline", "pipeline", request.pipeline),
        ("feature group", "feature_group", request.feature_group),
    ):
        if value is not None:
            narrowing.keep(criterion, value, columns.criteria[name].equal(value), _always(f"not {value}"))
    why = f"not {'/'.join(sorted(sources))}"
    narrowing.keep("energy source", request.source, columns.criteria["source"].within(sources), _always(why))
    trainer = request.trainer
    if trainer is not None and not (request.weights and trainer == LINEAR_TRAINER):
        column = columns.criteria["trainer"]
        mask = column.equal(trainer)
        if not mask.any() and not request.weights:
            mask = column.equal(_canonical_trainer(trainer))
        narrowing.keep("trainer", trainer, mask, _always(f"not {trainer}"))
    metrics = request.metrics or ()
    narrowing.keep(
        "features",
        ", ".join(metrics),
        columns.feature_sets.with_codes(usable),
        lambda dropped: "need " + _missing_features(columns, dropped, metrics),
    )
    if request.portable:
        why_not = partial(_why_not_loadable, columns)
        narrowing.keep("format", "that Kepler Core can load", columns.loadable, why_not)
    if request.linear_weights:
        mask = columns.loadable & ~columns.portable
        narrowing.keep("format", "with linear weights", mask, partial(_why_not_loadable, columns))
    if request.pickled:
        narrowing.keep("format", "as an archive of kepler-model-server", columns.pickled, _always(_NOT_PICKLED))
    if request.weights:
        mask = _with_usable_weights(columns, request)
        narrowing.keep("weights", trainer or "linear", mask, lambda dropped: why_no_weights(columns, dropped))
    return Candidates(narrowing.rows, columns.node_types.codes_of(narrowing.rows), tuple(narrowing.dropped))


class _Narrowing:
    """The models that are left after the criteria applied so far, and the number that each criterion excluded."""

    def __init__(self, columns: ModelColumns) -> None:
        self.columns = columns
        self.rows: IndexArray = np.arange(len(columns.models))
        self.dropped: list[Drop] = []

    def keep(self, criterion: str, wanted: str, mask: BoolArray, why: Callable[[IndexArray], str]) -> None:
        """Keep the models that `mask` marks, and drop all other models.

        `criterion` is the name of the criterion, `wanted` the value that the request has for it. `why` is called
        with the rows of the dropped models and returns the reason for dropping them. Raises `NoModelError` if
        no model is left.
        """
        dropped = self.rows[~mask[self.rows]]
        if len(dropped):
            self.dropped.append(Drop(criterion, len(dropped), why(dropped)))
        left = self.rows[mask[self.rows]]
        if not len(left):
            raise self._none_left(criterion, wanted)
        self.rows = left

    def _none_left(self, criterion: str, wanted: str) -> NoModelError:
        considered = len(self.columns.models)
        if criterion == "features":
            sets = (self.columns.feature_sets.values[code] for code in self.columns.feature_sets.codes_of(self.rows))
            fewest = min((sorted(needed - set(wanted.split(", "))) for needed in sets), key=len)
            available = shortened(wanted, _METRICS_CHARACTERS) or "none"
            return no_model(
                f"no model fits the available features; missing: {', '.join(fewest)} (available: {available})",
                considered,
                self.dropped,
            )
        if criterion == "weights":
            return no_model(
                f"no model with weights as {wanted} that is safe to serve: {self.dropped[-1].why}",
                considered,
                self.dropped,
            )
        if criterion == "format":
            return no_model(f"no model {wanted}: {self.dropped[-1].why}", considered, self.dropped)
        attribute = {"energy source": "source"}.get(criterion, criterion.replace(" ", "_"))
        values = {str(getattr(self.columns.models[row], attribute)) for row in self.rows}
        shown = wanted[:_NAME_CHARACTERS]
        message = f"no model of {criterion} {shown!r}; {close_matches(shown, values)}"
        return no_model(message, considered, self.dropped)


def _always(why: str) -> Callable[[IndexArray], str]:
    return lambda _: why


def _canonical_trainer(name: str) -> str:
    try:
        return registry.trainers.canonical(name)
    except PluginError:
        return name  # Without the trainer, its stored models can still be used.


def _missing_features(columns: ModelColumns, rows: IndexArray, metrics: Collection[str]) -> str:
    missing: set[str] = set()
    for code in columns.feature_sets.codes_of(rows):
        missing |= columns.feature_sets.values[code] - set(metrics)
    return first_of(sorted(missing), _MAX_NAMED_FEATURES)


def _with_usable_weights(columns: ModelColumns, request: ModelRequest) -> BoolArray:
    """Return which models have weights that Kepler evaluates correctly for this request, as a mask."""
    if request.trainer not in KEPLER_CURVES:
        return columns.linear
    first = request.metrics[0] if request.metrics else None
    return np.array(
        [m.weights is not None and not m.weights.linear and m.weights.drawn_over <= {first} for m in columns.models]
    )


def why_no_weights(columns: ModelColumns, rows: IndexArray) -> str:
    """Return the most frequent reasons why the models in `rows` have no usable weights.

    The reasons for linear models that have weights come first, because Kepler usually requests linear weights. The
    reasons for models of the trainers in `KEPLER_CURVES` come next. The reason for models without any weights is last.
    """
    reasons = []
    place: dict[str, int] = {}
    for row in rows:
        model = columns.models[row]
        why = model.no_weights if model.weights is None else "a curve"
        if model.weights is not None and model.weights.drawn_over:
            over = " and ".join(sorted(model.weights.drawn_over))
            why = f"a curve over {over}: usable only for a client that names its trainer and lists {over} first"
        place[why] = 2 if why == NO_STORED_WEIGHTS else 1 if model.trainer in KEPLER_CURVES else 0
        reasons.append(why)
    return _most_frequent(reasons, place)


def _why_not_loadable(columns: ModelColumns, rows: IndexArray) -> str:
    """Return the most frequent reasons why Kepler Core cannot load the models in `rows`."""
    models = (columns.models[row] for row in rows)
    return _most_frequent(["a portable model" if m.portable else m.no_linear_weights or "" for m in models])


def _most_frequent(reasons: Sequence[str], place: Mapping[str, int] = MappingProxyType({})) -> str:
    """Return the reasons that occur most often, with their numbers. Reasons with a lower `place` come first."""
    counts = Counter(reasons)
    frequent = sorted(counts, key=lambda why: (place.get(why, 0), -counts[why]))[:_MAX_NAMED_REASONS]
    return "; ".join(f"{counts[why]} × {why}" for why in frequent)
