"""All models of a store in memory, and the choice among them.

A choice goes through criteria in a fixed order (output type, energy source, pipeline, feature group,
trainer, features, weights, filter); then the most similar node type wins, and among models of
equally similar node types the lowest error. Errors on the same data are compared as they are. Errors
on unlike data are not comparable: there, each data's best model competes with its error divided by
that of always answering the mean, if all of them know it.

What depends on few things is computed once and kept: a request costs the same whether the store has
a hundred models or ten thousand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray, IndexArray
from kepler_core.errors import NoModelError, PluginError, RequestError, StoreError, close_matches
from kepler_core.models.kepler_weights import KEPLER_CURVES, LINEAR_TRAINER
from kepler_core.plugins import registry
from kepler_core.selection.explanation import Drop, NodeTypeMatch, Selection, rounded_down
from kepler_core.selection.filters import Filter, Threshold
from kepler_core.selection.request import ModelRequest
from kepler_core.selection.scores import figure_table
from kepler_core.store.models import NodeType, StoredModel, read_models, read_node_types
from kepler_core.store.store import Snapshot, Store

Spec = Mapping[str, Any]

ERROR_KEY = "mae"

_KEPT_VIEWS = 512
_KEPT_MACHINES = 1024
_EQUAL = 1e-9


class SpecLikeness(Protocol):
    """How alike two machines are (`kepler_profiler.similarity.Likeness`)."""

    @property
    def similarity(self) -> float: ...
    @property
    def looseness(self) -> float: ...
    @property
    def uncertainty(self) -> float: ...
    @property
    def attributes(self) -> Mapping[str, float | None]: ...


class SpecTable(Protocol):
    """Machine specs that others are compared with (`kepler_profiler.similarity.SpecTable`)."""

    def similarities(self, spec: Spec) -> FloatArray: ...
    def likeness(self, spec: Spec, row: int) -> SpecLikeness: ...


@attrs.define(eq=False)
class _View:
    """The models that fit the part of a request that recurs."""

    rows: IndexArray
    types: IndexArray
    """The node types of `rows`, each once."""
    dropped: tuple[Drop, ...]
    best: dict[tuple[int, ...], tuple[int, int | None, str]] = attrs.field(factory=dict)
    """Node types (rows of the spec table) -> the best model of them, the next best, how compared."""


@attrs.define(eq=False)
class _Machine:
    """How alike the node types are to one machine that was asked for."""

    similarities: FloatArray
    likeness: dict[int, SpecLikeness] = attrs.field(factory=dict)


class Catalogue:
    """The models of a store at one moment. It is never changed."""

    def __init__(
        self,
        models: Sequence[StoredModel],
        node_types: Mapping[str, Mapping[int, NodeType]],
        broken: Mapping[str, str],
        *,
        compare: Callable[[Sequence[Spec]], SpecTable] | None = None,
        error_key: str = ERROR_KEY,
        location: str = "",
    ) -> None:
        self.models = tuple(models)
        self.node_types = node_types
        self.broken = dict(broken)
        self._by_path = {(model.pipeline, model.path): model for model in self.models}
        self.location = location
        self.error_key = error_key
        self._codes = {
            name: _Codes(getattr(model, name) for model in self.models)
            for name in ("output_type", "source", "pipeline", "feature_group", "trainer")
        }
        self._feature_sets = _Codes(frozenset(model.features) for model in self.models)
        self._linear = np.array([m.weights is not None and m.weights.linear for m in self.models], dtype=bool)
        self._portable = np.array([m.portable for m in self.models], dtype=bool)
        self._types = _Codes((model.pipeline, model.node_type) for model in self.models)
        self._type_number = np.array([number for _, number in self._types.values], dtype=np.int64)
        specs: list[Spec] = [{}] * len(self._types.values)
        for model, code in zip(self.models, self._types.of, strict=True):
            specs[code] = model.machine_spec
        self._specs = specs
        self._table = compare(specs) if compare is not None else None
        self.figures = figure_table(self.models)
        self.models_of = dict(Counter(model.pipeline for model in self.models))
        self._error = self.figures.column(error_key)
        self._views: dict[Any, _View] = {}
        self._machines: dict[Any, _Machine] = {}
        self._sources: dict[str, frozenset[str]] = {}

    # --- choosing ---

    def select(self, request: ModelRequest) -> Selection:
        """The model for a request; `NoModelError` says what came closest, `RequestError` what in the
        request cannot be right."""
        self._check_filter(request.filter)
        view = self._view(request)
        rows, dropped = view.rows, view.dropped
        types = view.types
        if request.filter:
            rows, drop = self._filtered(request.filter, rows, dropped)
            dropped = (*dropped, drop)
            types = self._types.among(rows)
        chosen_types, match = self._node_types(request, types, dropped)
        if request.filter:
            found = self._best(rows[self._types.one_of(chosen_types, rows)])
        else:
            key = tuple(chosen_types.tolist())
            if key not in view.best:
                if len(view.best) > _KEPT_VIEWS:
                    view.best.clear()
                view.best[key] = self._best(rows[self._types.one_of(chosen_types, rows)])
            found = view.best[key]
        best, runner_up, compared_by = found
        return Selection(
            self.models[best],
            match,
            self.error_key,
            compared_by,
            len(self.models),
            dropped,
            None if runner_up is None else self.models[runner_up],
            self.figures,
            best,
            runner_up,
        )

    def find(
        self,
        *,
        source: str | None = None,
        output_type: str | None = None,
        pipeline: str | None = None,
        feature_group: str | None = None,
        trainer: str | None = None,
        node_type: int | None = None,
        filter: Filter | None = None,
    ) -> list[StoredModel]:
        """All models that meet the conditions, lowest error first."""
        mask = np.ones(len(self.models), dtype=bool)
        for name, wanted in (
            ("output_type", output_type),
            ("pipeline", pipeline),
            ("feature_group", feature_group),
            ("trainer", trainer),
        ):
            if wanted is not None:
                mask &= self._codes[name].equal(wanted)
        if source is not None:
            mask &= self._codes["source"].within(self._matching_sources(source))
        if node_type is not None:
            mask &= self._type_number[self._types.of] == node_type if len(self.models) else mask
        rows = np.flatnonzero(mask)
        if filter:
            self._check_filter(filter)
            rows = rows[self._meets(filter, rows)]
        return [self.models[row] for row in rows[np.argsort(_worst_last(self._error[rows]), kind="stable")]]

    def by_path(self, pipeline: str, path: str) -> StoredModel | None:
        """The model at a path below a pipeline."""
        return self._by_path.get((pipeline, path))

    # --- the part of a request that recurs ---

    def _view(self, request: ModelRequest) -> _View:
        usable = self._usable_sets(request.metrics)
        first = request.metrics[0] if request.weights and request.trainer in KEPLER_CURVES and request.metrics else None
        sources = self._matching_sources(request.source)
        names = (request.pipeline, request.feature_group, request.trainer)
        key = (request.output_type, sources, names, usable, request.weights, request.portable, first)
        kept = self._views.get(key)
        if kept is None:
            # what fails is not kept: its message is about this very request
            kept = self._make_view(request, sources, usable)
            if len(self._views) > _KEPT_VIEWS:
                self._views.clear()
            self._views[key] = kept
        return kept

    def _make_view(self, request: ModelRequest, sources: frozenset[str], usable: tuple[int, ...]) -> _View:
        rows = np.arange(len(self.models))
        dropped: list[Drop] = []

        def keep(criterion: str, wanted: str, mask: BoolArray, why: Callable[[IndexArray], str]) -> None:
            nonlocal rows
            lost = rows[~mask[rows]]
            if len(lost):
                dropped.append(Drop(criterion, len(lost), why(lost)))
            left = rows[mask[rows]]
            if not len(left):
                raise self._none_left(criterion, wanted, rows, dropped)
            rows = left

        if not len(rows):
            raise self._none_left("", "", rows, dropped)
        for criterion, name, wanted in (
            ("output type", "output_type", request.output_type),
            ("pipeline", "pipeline", request.pipeline),
            ("feature group", "feature_group", request.feature_group),
        ):
            if wanted is not None:
                keep(criterion, wanted, self._codes[name].equal(wanted), lambda _, w=wanted: f"not {w}")  # type: ignore[misc]
        said = "/".join(sorted(sources))
        keep("energy source", request.source, self._codes["source"].within(sources), lambda _: f"not {said}")
        trainer = request.trainer
        if trainer is not None and not (request.weights and trainer == LINEAR_TRAINER):
            mask = self._codes["trainer"].equal(trainer)
            if not mask.any() and not request.weights:
                mask = self._codes["trainer"].equal(_canonical_trainer(trainer, self._codes["trainer"].values_set))
            keep("trainer", trainer, mask, lambda _: f"not {trainer}")
        keep(
            "features",
            ", ".join(request.metrics or ()),
            self._feature_sets.one_of(usable),
            lambda lost: "need " + self._missing(lost, request.metrics or ()),
        )
        if request.portable:
            keep("format", "portable", self._portable, lambda _: "not models of Kepler Core")
        if request.weights:
            keep("weights", trainer or "linear", self._evaluable(request), self._why_not_evaluable)
        return _View(rows, self._types.among(rows), tuple(dropped))

    def _evaluable(self, request: ModelRequest) -> BoolArray:
        if request.trainer not in KEPLER_CURVES:
            return self._linear
        first = request.metrics[0] if request.metrics else None
        return np.array(
            [m.weights is not None and not m.weights.linear and m.weights.drawn_over <= {first} for m in self.models]
        )

    def _why_not_evaluable(self, lost: IndexArray) -> str:
        reasons: dict[str, int] = {}
        for row in lost:
            model = self.models[row]
            why = model.no_weights if model.weights is None else "a curve"
            if model.weights is not None and model.weights.drawn_over:
                over = " and ".join(sorted(model.weights.drawn_over))
                why = f"a curve over {over}: right only for a client that names it and lists that one feature first"
            reasons[why] = reasons.get(why, 0) + 1
        most = sorted(reasons, key=lambda why: -reasons[why])[:3]
        return "; ".join(f"{reasons[why]} × {why}" for why in most)

    def _usable_sets(self, metrics: tuple[str, ...] | None) -> tuple[int, ...]:
        sets = self._feature_sets.values
        if metrics is None:
            return tuple(range(len(sets)))
        there = frozenset(metrics)
        return tuple(code for code, needed in enumerate(sets) if needed <= there)

    def _missing(self, rows: IndexArray, metrics: Collection[str]) -> str:
        needed: set[str] = set()
        for code in self._feature_sets.among(rows):
            needed |= self._feature_sets.values[code] - set(metrics)
        names = sorted(needed)
        return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")

    def _matching_sources(self, name: str) -> frozenset[str]:
        found = self._sources.get(name)
        if found is None:
            found = self._sources[name] = matching_sources(name, self._codes["source"].values_set)
        return found

    # --- filter ---

    def _check_filter(self, wanted: Filter) -> None:
        for threshold in wanted.thresholds:
            if (key := threshold.key) not in self.figures.known:
                close = close_matches(key[:60], self.figures.known)
                raise RequestError("filter", f"unknown attribute {key[:60]!r}; {close}")

    def _meets(self, wanted: Filter, rows: IndexArray) -> BoolArray:
        mask = np.ones(len(rows), dtype=bool)
        for threshold in wanted.thresholds:
            found = self.figures.column(threshold.key)[rows]
            # a model without the figure does not meet it: NaN compares as false
            mask &= (found >= threshold.limit) if threshold.at_least else (found <= threshold.limit)
        if wanted.features is not None:
            allowed = [code for code, needed in enumerate(self._feature_sets.values) if needed <= wanted.features]
            mask &= self._feature_sets.one_of(allowed, rows)
        return mask

    def _filtered(self, wanted: Filter, rows: IndexArray, dropped: tuple[Drop, ...]) -> tuple[IndexArray, Drop]:
        mask = self._meets(wanted, rows)
        asked = [str(threshold) for threshold in wanted.thresholds]
        if wanted.features is not None:
            asked.append("only " + ", ".join(sorted(wanted.features)))
        drop = Drop("filter", int((~mask).sum()), f"not {' and '.join(asked)}")
        if not mask.any():
            nearest = self.models[rows[np.argmin(_worst_last(self._error[rows]))]]
            figures = [f"{t.key} {self._figure(t, nearest)}" for t in wanted.thresholds]
            if wanted.features is not None:
                figures.append("features " + ", ".join(nearest.features))
            raise self._no_model(
                f"none of {len(rows)} models meets {' and '.join(asked)}; the one with the lowest "
                f"{self.error_key} is {nearest.pipeline}/{nearest.path} ({', '.join(figures)})",
                (*dropped, drop),
            )
        return rows[mask], drop

    def _figure(self, threshold: Threshold, model: StoredModel) -> str:
        value = self.figures.column(threshold.key)[self.models.index(model)]
        return "unknown" if np.isnan(value) else f"{value:g}"

    # --- node types ---

    def _node_types(
        self, request: ModelRequest, types: IndexArray, dropped: tuple[Drop, ...]
    ) -> tuple[IndexArray, NodeTypeMatch]:
        spec = {key: value for key, value in request.machine_spec.items() if value not in (0, "", None)}
        if request.node_type is not None:
            given = types[self._type_number[types] == request.node_type]
            if len(given):
                return given, NodeTypeMatch("given", number=request.node_type)
            there = ", ".join(map(str, sorted(set(self._type_number[types].tolist()))))
            if not (spec and request.loose_node_type):
                raise self._no_model(f"no model of node type {request.node_type} (there: {there})", dropped)
        if not spec or self._table is None:
            return types, NodeTypeMatch("any")
        machine = self._machine(spec)
        similarities = machine.similarities[types]
        most = float(similarities.max())
        best = types[similarities >= most - _EQUAL]
        row = int(best[0])
        if (likeness := machine.likeness.get(row)) is None:
            likeness = machine.likeness[row] = self._table.likeness(spec, row)
        exact = likeness.similarity == 1.0
        if likeness.uncertainty == 1.0:
            if not request.loose_node_type:
                raise self._no_model("the machine of these models is not known, so it cannot be the same", dropped)
            return best, NodeTypeMatch("unknown", number=int(self._type_number[row]))
        match = NodeTypeMatch(
            "exact" if exact else "nearest",
            number=int(self._type_number[row]),
            spec=self._specs[row],
            likeness=likeness,
        )
        if not exact and not request.loose_node_type:
            pipeline, number = self._types.values[row]
            raise self._no_model(
                f"no node type is the same as the machine_spec; the nearest is type {number} of {pipeline} "
                f"({_spec_text(self._specs[row])}), similarity {rounded_down(most, 3):.3f}",
                dropped,
            )
        return best, match

    def _machine(self, spec: Spec) -> _Machine:
        assert self._table is not None
        key = tuple(sorted((name, value) for name, value in spec.items() if isinstance(value, str | int | float)))
        found = self._machines.get(key)
        if found is None:
            if len(self._machines) > _KEPT_MACHINES:
                self._machines.clear()
            found = self._machines[key] = _Machine(self._table.similarities(spec))
        return found

    # --- the lowest error ---

    def _best(self, rows: IndexArray) -> tuple[int, int | None, str]:
        error = _worst_last(self._error[rows])
        order = np.argsort(error, kind="stable")
        data = self.figures.data[rows]
        if len(rows) == 1 or (data == data[0]).all():
            how = f"{self.error_key} on the same data" if len(rows) > 1 else "the only one left"
        elif self.error_key != "mae":
            how = f"{self.error_key} on unlike data"
        else:
            winners = order[np.sort(np.unique(data[order], return_index=True)[1])]
            relative = self.figures.relative[rows[winners]]
            if np.isnan(relative).any():
                how = "mae on unlike data, whose difficulty is not known"
            else:
                ranked = winners[np.argsort(relative, kind="stable")]
                how = "mae on unlike data, each relative to that of always answering the mean"
                return int(rows[ranked[0]]), int(rows[ranked[1]]), how
        return int(rows[order[0]]), int(rows[order[1]]) if len(rows) > 1 else None, how

    # --- nothing fits ---

    def _none_left(self, criterion: str, wanted: str, rows: IndexArray, dropped: Sequence[Drop]) -> NoModelError:
        if not len(self.models):
            broken = "".join(f"; {name} is broken: {why}" for name, why in sorted(self.broken.items())[:1])
            return self._no_model(f"{self.location}: no models in it{broken}", dropped)
        if criterion == "features":
            fewest = min(
                (
                    sorted(self._feature_sets.values[c] - set(wanted.split(", ")))
                    for c in self._feature_sets.among(rows)
                ),
                key=len,
            )
            had = wanted if len(wanted) <= 300 else wanted[:297] + "..."
            return self._no_model(
                f"no model fits the features that there are; missing: {', '.join(fewest)} (there: {had or 'none'})",
                dropped,
            )
        if criterion in ("weights", "format"):
            kind = f"weights as {wanted}" if criterion == "weights" else wanted
            return self._no_model(f"no model with {kind} that is safe to serve: {dropped[-1].why}", dropped)
        name = {"energy source": "source"}.get(criterion, criterion.replace(" ", "_"))
        there = {str(getattr(self.models[row], name)) for row in rows}
        return self._no_model(
            f"no model of {criterion} {wanted[:100]!r}; {close_matches(wanted[:100], there)}", dropped
        )

    def _no_model(self, message: str, dropped: Iterable[Drop]) -> NoModelError:
        considered = {"considered": len(self.models), "dropped": [drop.explain() for drop in dropped]}
        return NoModelError(message, {"candidates": considered})


class _Codes:
    """Values of all models as numbers: 0, 1 and so on, so that a table of them does for what NumPy's set
    functions, which import a tenth of a second's worth, do for any numbers."""

    def __init__(self, values: Iterable[Any]) -> None:
        numbers: dict[Any, int] = {}
        self.of = np.array([numbers.setdefault(value, len(numbers)) for value in values], dtype=np.intp)
        self.values = list(numbers)
        self.values_set = numbers.keys()

    def equal(self, value: Any) -> BoolArray:
        return self.within((value,))

    def within(self, wanted: Collection[Any]) -> BoolArray:
        return self.one_of([code for code, value in enumerate(self.values) if value in wanted])

    def one_of(self, codes: Sequence[int] | IndexArray, rows: IndexArray | None = None) -> BoolArray:
        """Which models (of these rows) have one of these codes."""
        table = np.zeros(len(self.values), dtype=bool)
        table[np.asarray(codes, dtype=np.intp)] = True
        return table[self.of if rows is None else self.of[rows]]

    def among(self, rows: IndexArray) -> IndexArray:
        """The codes of these rows, each once, rising."""
        return np.flatnonzero(np.bincount(self.of[rows], minlength=len(self.values)))


def _worst_last(error: FloatArray) -> FloatArray:
    return np.where(np.isnan(error), np.inf, error)


def _spec_text(spec: Spec) -> str:
    return ", ".join(f"{key} {value}" for key, value in spec.items()) or "its machine is not known"


def _canonical_trainer(name: str, there: Collection[str]) -> str:
    try:
        return registry.trainers.canonical(name)
    except PluginError:
        return name  # models of a trainer that is not installed here are as good


def matching_sources(name: str, there: Collection[str]) -> frozenset[str]:
    """The energy sources that a name stands for: a source, its alias, or all that Kepler asks for
    under one name; `RequestError` for an unknown one. `there` are names known from models."""
    found = {name} & {*there, *registry.energy_sources.names()}
    known = set(there).union(*(entry.aliases for entry in registry.energy_sources.entries))
    for source in registry.energy_sources.names():
        known.add(source)
        try:
            sent_as = registry.energy_sources.preferred(source).sent_as
        except PluginError:
            continue  # named by `plugins doctor`; it has no bearing on the others
        known.add(sent_as)
        if sent_as == name:
            found.add(source)
    try:
        found.add(registry.energy_sources.canonical(name))
    except PluginError as error:
        if not found:
            raise RequestError(
                "source", f"unknown energy source {name[:60]!r}; {close_matches(name[:60], known)}"
            ) from error
    return frozenset(found)


def read_catalogue(
    store: Store,
    *,
    pipelines: Collection[str] | None = None,
    compare: Callable[[Sequence[Spec]], SpecTable] | None = None,
    error_key: str = ERROR_KEY,
) -> Catalogue:
    """The catalogue of a store, or of some of its pipelines. Pipelines that cannot be read are left
    out and named in `broken`; one that is asked for by name raises `StoreError`."""
    models: list[StoredModel] = []
    node_types: dict[str, Mapping[int, NodeType]] = {}
    broken: dict[str, str] = {}
    for name in store.pipelines() if pipelines is None else pipelines:
        try:
            found, types = read_pipeline_models(store.snapshot(name))
        except StoreError as error:
            if pipelines is not None:
                raise
            broken[name] = str(error)
        else:
            models += found
            node_types[name] = types
    return Catalogue(models, node_types, broken, compare=compare, error_key=error_key, location=store.location)


def read_pipeline_models(snapshot: Snapshot, *, serving: bool = False) -> tuple[list[StoredModel], dict[int, NodeType]]:
    """Everything of one pipeline that a catalogue holds."""
    return read_models(snapshot, serving=serving), read_node_types(snapshot)
