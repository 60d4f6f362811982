"""Choose the node types whose machine is most similar to the machine of a request."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray, IndexArray
from kepler_core.errors import NoModelError
from kepler_core.models.kepler_weights import KEPLER_CURVES
from kepler_core.selection.columns import ModelColumns
from kepler_core.selection.explanation import Drop, NodeTypeMatch, no_model
from kepler_core.selection.narrowing import why_no_weights
from kepler_core.selection.request import ModelRequest
from kepler_core.selection.similarity import Spec, SpecLikeness, SpecTable, rounded_down

_MAX_MACHINES = 1024
_SAME_SIMILARITY = 1e-9


@attrs.define(eq=False)
class _Machine:
    """The similarities between the machine of an earlier request and the machines of all node types."""

    similarities: FloatArray
    likeness: dict[int, SpecLikeness] = attrs.field(factory=dict)


class NodeTypeChooser:
    """Chooses node types for requests, and caches the similarities to the machines of earlier requests."""

    def __init__(self, columns: ModelColumns, table: SpecTable | None) -> None:
        """Prepare the choice among the node types of the models in `columns`.

        `table` contains the machine of each node type in the order of the node types' codes. If it is None,
        machines are not compared.
        """
        self._columns = columns
        self._table = table
        self._machines: dict[Any, _Machine] = {}

    def choose(
        self, request: ModelRequest, types: IndexArray, dropped: tuple[Drop, ...]
    ) -> tuple[IndexArray, NodeTypeMatch]:
        """Return the codes of the node types in `types` that match the request best, and how they match it.

        Raises `NoModelError` if the request requires a node type that is not in `types`.
        """
        numbers = self._columns.node_type_numbers
        spec = {key: value for key, value in request.machine_spec.items() if value not in (0, "", None)}
        if request.node_type is not None:
            of_number = types[numbers[types] == request.node_type]
            if len(of_number):
                return of_number, NodeTypeMatch("given", number=request.node_type)
            if not (spec and request.loose_node_type):
                available = ", ".join(map(str, sorted(set(numbers[types].tolist()))))
                message = f"no model of node type {request.node_type} (available: {available})"
                raise self._no_model(message + self._refused(request, numbers == request.node_type), dropped)
        if not spec or self._table is None:
            return types, NodeTypeMatch("any")
        return self._most_similar(request, spec, types, dropped)

    def _most_similar(
        self, request: ModelRequest, spec: Spec, types: IndexArray, dropped: tuple[Drop, ...]
    ) -> tuple[IndexArray, NodeTypeMatch]:
        assert self._table is not None
        loose = request.loose_node_type
        machine = self._machine(spec)
        similarities = machine.similarities[types]
        highest = float(similarities.max())
        best = types[similarities >= highest - _SAME_SIMILARITY]
        code = int(best[0])
        if (likeness := machine.likeness.get(code)) is None:
            likeness = machine.likeness[code] = self._table.likeness(spec, code)
        number = int(self._columns.node_type_numbers[code])
        exact = likeness.similarity == 1.0
        if likeness.uncertainty == 1.0 or not likeness.attributes:
            if not loose:
                raise self._no_model(
                    "the machine of these models is not known, so it cannot be recognised as the same", dropped
                )
            return best, NodeTypeMatch("unknown", number=number)
        machine_spec = self._columns.machine_specs[code]
        if not exact and not loose:
            pipeline, number = self._columns.node_types.values[code]
            raise self._no_model(
                f"no node type with a usable model is the same as the machine_spec; the nearest is type {number} of "
                f"{pipeline} ({_spec_text(machine_spec)}), similarity {rounded_down(highest, 3):.3f}"
                + self._refused(request, machine.similarities >= 1.0 - _SAME_SIMILARITY),
                dropped,
            )
        return best, NodeTypeMatch("exact" if exact else "nearest", number, machine_spec, likeness)

    def _refused(self, request: ModelRequest, wanted: BoolArray) -> str:
        """Return why the wanted node types have no linear weights for a request, as the end of an error message.

        `wanted` is a mask over the codes of node types. The text is empty if the request is not for linear weights.
        It is also empty if these node types have linear weights, or if they have no models.
        """
        columns = self._columns
        of_types = columns.node_types.with_codes(np.flatnonzero(wanted))
        rows = np.flatnonzero(of_types & columns.criteria["output_type"].equal(request.output_type))
        if not request.weights or request.trainer in KEPLER_CURVES or not len(rows) or columns.linear[rows].any():
            return ""
        numbers = sorted(set(columns.node_type_numbers[columns.node_types.codes_of(rows)].tolist()))
        names = ", ".join(map(str, numbers))
        return f"; node type {names} has no linear weights that are safe to serve: {why_no_weights(columns, rows)}"

    def _machine(self, spec: Spec) -> _Machine:
        assert self._table is not None
        key = tuple(sorted((name, value) for name, value in spec.items() if isinstance(value, str | int | float)))
        machine = self._machines.get(key)
        if machine is None:
            if len(self._machines) > _MAX_MACHINES:
                self._machines.clear()
            machine = self._machines[key] = _Machine(self._table.similarities(spec))
        return machine

    def _no_model(self, message: str, dropped: tuple[Drop, ...]) -> NoModelError:
        return no_model(message, len(self._columns.models), dropped)


def _spec_text(spec: Spec) -> str:
    return ", ".join(f"{key} {value}" for key, value in spec.items()) or "its machine is not known"
