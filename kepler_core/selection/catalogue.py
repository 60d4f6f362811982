"""All models of a store in memory, and the selection of one model for a request.

A selection has three steps. First, criteria (module `narrowing`) and the request's filter (`filtering`)
exclude models. Second, the node types that are most similar to the request's machine are chosen
(`node_type_choice`). Third, the models of these node types are ranked by their errors, and the best model is
chosen (`ranking`).

Results that depend only on a few properties of a request are cached. So a request takes the same time with ten thousand
models as with a hundred models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from kepler_core.arrays import IndexArray
from kepler_core.honesty.least_error import unknown_last
from kepler_core.models.kepler_weights import KEPLER_CURVES
from kepler_core.selection.columns import ModelColumns
from kepler_core.selection.explanation import Selection, StatedErrors
from kepler_core.selection.filtering import apply_filter, check_filter, meets_filter
from kepler_core.selection.filters import Filter
from kepler_core.selection.narrowing import Candidates, narrow, usable_feature_sets
from kepler_core.selection.node_type_choice import NodeTypeChooser
from kepler_core.selection.ranking import Ranking, rank_by_error
from kepler_core.selection.request import ModelRequest
from kepler_core.selection.similarity import Spec, SpecTable
from kepler_core.selection.sources import matching_sources
from kepler_core.selection.stand_in import select_loadable
from kepler_core.store.models import NodeType, StoredModel

ERROR_KEY = "mae"
"""The score by which models are ranked, unless the user sets another score."""

_MAX_CANDIDATES = 512
"""Maximum number of results of `narrow` in the cache. Each result caches at most the same number of rankings."""


class Catalogue:
    """The models of a store at one moment. A catalogue is immutable."""

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
        """Store the properties of the models in columns.

        `node_types` has the node types of each pipeline, with their numbers as keys. `broken` maps each pipeline
        that cannot be read to the reason. `compare` is called with the machines of all node types. It returns a table
        that compares the machine of a request with these machines. Without `compare`, the machine of a request is
        ignored.
        `error_key` is the score by which models are ranked. `location` names the store in error messages.
        """
        self.models = tuple(models)
        self.node_types = node_types
        self.broken = dict(broken)
        self.location = location
        self.error_key = error_key
        self.models_of = dict(Counter(model.pipeline for model in self.models))
        """Number of models, by pipeline."""
        self._by_path = {(model.pipeline, model.path): model for model in self.models}
        self._columns = ModelColumns(self.models)
        table = compare(self._columns.machine_specs) if compare is not None else None
        self._node_type_chooser = NodeTypeChooser(self._columns, table)
        self._error = self._columns.scores.column(error_key)
        self._candidates_of: dict[Any, Candidates] = {}
        self._sources_of: dict[str, frozenset[str]] = {}
        self._stated = StatedErrors()

    def select(self, request: ModelRequest) -> Selection:
        """Select the best model for a request.

        If the request is for a portable model, linear weights may stand in for a model that contains only pickles
        (see `stand_in`). Raises `NoModelError` if no model meets the request; the message names the nearest match.
        Raises `RequestError` if the request itself is wrong.
        """
        return select_loadable(self._select, request) if request.portable else self._select(request)

    def _select(self, request: ModelRequest) -> Selection:
        """Select the best model that meets all conditions of a request."""
        check_filter(self._columns, request.filter)
        candidates = self._candidates(request)
        rows, dropped, types = candidates.rows, candidates.dropped, candidates.node_types
        if request.filter:
            rows, drop = apply_filter(self._columns, request.filter, rows, dropped, self._error, self.error_key)
            dropped = (*dropped, drop)
            types = self._columns.node_types.codes_of(rows)
        chosen_types, match = self._node_type_chooser.choose(request, types, dropped)
        if request.filter:
            ranking = self._rank(rows[self._columns.node_types.with_codes(chosen_types, rows)])
        else:
            key = tuple(chosen_types.tolist())
            if key not in candidates.rankings:
                if len(candidates.rankings) > _MAX_CANDIDATES:
                    candidates.rankings.clear()
                of_types = rows[self._columns.node_types.with_codes(chosen_types, rows)]
                candidates.rankings[key] = self._rank(of_types)
            ranking = candidates.rankings[key]
        best, runner_up, compared_by = ranking
        return Selection(
            self.models[best],
            match,
            self.error_key,
            compared_by,
            len(self.models),
            dropped,
            None if runner_up is None else self.models[runner_up],
            self._stated,
            self._columns.scores,
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
        """Return all models that meet the conditions, sorted by error, the lowest first. None means no condition."""
        columns = self._columns
        mask = np.ones(len(self.models), dtype=bool)
        for name, value in (
            ("output_type", output_type),
            ("pipeline", pipeline),
            ("feature_group", feature_group),
            ("trainer", trainer),
        ):
            if value is not None:
                mask &= columns.criteria[name].equal(value)
        if source is not None:
            mask &= columns.criteria["source"].within(self._matching_sources(source))
        if node_type is not None and len(self.models):
            mask &= columns.node_type_numbers[columns.node_types.codes] == node_type
        rows = np.flatnonzero(mask)
        if filter:
            check_filter(columns, filter)
            rows = rows[meets_filter(columns, filter, rows)]
        return [self.models[row] for row in rows[np.argsort(unknown_last(self._error[rows]), kind="stable")]]

    def by_path(self, pipeline: str, path: str) -> StoredModel | None:
        """Return the model at a path below a pipeline; None if no model has this path."""
        return self._by_path.get((pipeline, path))

    def _candidates(self, request: ModelRequest) -> Candidates:
        """Return the result of `narrow` for a request, from the cache if possible.

        The cache's key consists of the properties of the request that the result depends on.
        """
        usable = usable_feature_sets(self._columns, request.metrics)
        first = request.metrics[0] if request.weights and request.trainer in KEPLER_CURVES and request.metrics else None
        sources = self._matching_sources(request.source)
        formats = (request.weights, request.portable, request.linear_weights, request.pickled)
        names = (request.pipeline, request.feature_group, request.trainer)
        key = (request.output_type, sources, names, usable, *formats, first)
        candidates = self._candidates_of.get(key)
        if candidates is None:
            # Do not cache errors of `narrow`: their messages contain properties of the request that are not in `key`.
            candidates = narrow(self._columns, request, sources, usable, self.broken, self.location)
            if len(self._candidates_of) > _MAX_CANDIDATES:
                self._candidates_of.clear()
            self._candidates_of[key] = candidates
        return candidates

    def _matching_sources(self, name: str) -> frozenset[str]:
        sources = self._sources_of.get(name)
        if sources is None:
            sources = self._sources_of[name] = matching_sources(name, self._columns.criteria["source"].distinct)
        return sources

    def _rank(self, rows: IndexArray) -> Ranking:
        return rank_by_error(rows, self._error, self.error_key, self._columns.scores)
