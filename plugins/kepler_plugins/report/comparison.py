"""The page of `store compare`: texts and tables from a comparison, rendered with the template comparison.html.j2."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kepler_core.comparison.choice import ALL_FEATURES, Choice
from kepler_core.comparison.comparison import Comparison
from kepler_core.comparison.pairs import Pair
from kepler_core.comparison.sides import SideModel
from kepler_core.honesty.document import SPLIT_NAMES, SplitErrors
from kepler_plugins.report.chosen import MAX_CHOSEN, SPLIT_WORDS
from kepler_plugins.report.comparison_pictures import of_choice
from kepler_plugins.report.pictures import Pictures
from kepler_plugins.report.templates import render


def comparison_page(comparison: Comparison) -> str:
    """Return a comparison as one HTML document without references to other files."""
    pictures = Pictures()
    general = [choice for choice in comparison.choices if choice.features == ALL_FEATURES]
    first, second = comparison.first, comparison.second
    return render(
        "comparison.html.j2",
        first={"letter": "A", **first.as_dict()},
        second={"letter": "B", **second.as_dict()},
        summary=comparison.summary,
        same_data=comparison.same_data,
        split_words=[SPLIT_WORDS[name] for name in SPLIT_NAMES],
        several_node_types=len(first.node_types | second.node_types) > 1,
        rows=[_row(pair) for pair in comparison.pairs],
        choices=[
            choice.as_dict()
            | {"first": _path(choice.first), "second": _path(choice.second), "model": _path(choice.model)}
            for choice in comparison.choices
        ],
        reasons=_reasons(comparison.choices),
        chosen=[_section(choice, pictures) for choice in general[:MAX_CHOSEN]],
        hidden=max(len(general) - MAX_CHOSEN, 0),
        recordings=[
            (title, names)
            for title, names in (
                ("In both trainings", comparison.recordings.both),
                ("Only in A", comparison.recordings.only_first),
                ("Only in B", comparison.recordings.only_second),
            )
            if names
        ],
        changes=comparison.changes,
    )


def _path(model: SideModel | None) -> str | None:
    return None if model is None else f"{model.stored.feature_group}/{model.stored.name}"


def _reasons(choices: Iterable[Choice]) -> dict[str, list[str]]:
    """Return the choices, grouped by the way in which the models' errors were compared."""
    reasons: dict[str, list[str]] = {}
    for choice in choices:
        case = f"{choice.source} {choice.output_type} {choice.features}"
        reasons.setdefault(choice.compared_by.rstrip(","), []).append(case)
    return reasons


def _row(pair: Pair) -> dict[str, Any]:
    """Return the row for a pair of models in the table of all models."""
    errors = [{} if model is None else model.errors for model in (pair.first, pair.second)]
    difference = None
    if (split := pair.split) is not None:
        difference = errors[1][split].mae - errors[0][split].mae
    remark = f"only {pair.only}" if pair.only else "equal" if difference == 0 else "not comparable"
    return {
        "key": pair.key,
        "node_type": pair.node_type,
        "errors": [tuple(_mae(side.get(name)) for side in errors) for name in SPLIT_NAMES],
        "half_widths": tuple(None if model is None else model.half_width for model in (pair.first, pair.second)),
        "difference": difference,
        "better": pair.better,
        "remark": remark,
    }


def _mae(errors: SplitErrors | None) -> float | None:
    return None if errors is None else errors.mae


def _section(choice: Choice, pictures: Pictures) -> dict[str, Any]:
    """Return the section of the page about the two models that `select` takes from A and from B."""
    drawn, notes = of_choice(pictures, choice)
    for letter, model in (("A", choice.first), ("B", choice.second)):
        if model is not None and model.problem is not None:
            notes.append(f"The model of {letter} {model.problem}.")
    return {
        "title": f"{choice.source} {choice.output_type}",
        "first": _path(choice.first),
        "second": _path(choice.second),
        "notes": notes,
        "pictures": drawn,
        "splits": _split_rows(choice),
        "ranges": _range_rows(choice),
    }


def _split_rows(choice: Choice) -> list[dict[str, Any]]:
    """Return a table row for each split and component on which at least one of the two models was evaluated."""
    sides = [{} if model is None else model.errors for model in (choice.first, choice.second)]
    rows = []
    for name in SPLIT_NAMES:
        splits = [side.get(name) for side in sides]
        for component in _names(errors.components for errors in splits if errors is not None):
            entries = [None if errors is None else errors.components.get(component) for errors in splits]
            mae = tuple(None if entry is None else entry.mae for entry in entries)
            rows.append(
                {
                    "split": SPLIT_WORDS[name],
                    "component": component,
                    "mae": mae,
                    "difference": None if mae[0] is None or mae[1] is None else mae[1] - mae[0],
                    "bias": tuple(None if entry is None else entry.bias for entry in entries),
                    "idle_bias": tuple(None if entry is None else entry.idle_bias for entry in entries),
                    "worst": tuple(None if errors is None else errors.worst for errors in splits),
                }
            )
    return rows


def _range_rows(choice: Choice) -> list[dict[str, Any]]:
    """Return a table row for each feature that at least one of the two models uses."""
    blocks = [None if model is None else model.honesty for model in (choice.first, choice.second)]
    ranges: Sequence[Mapping[str, tuple[float, float]]] = [{} if one is None else one.seen.features for one in blocks]
    rows = []
    for name in _names(ranges):
        a, b = (side.get(name) for side in ranges)
        wider = ""
        if a is not None and b is not None and a != b:
            contains = [b[0] >= a[0] and b[1] <= a[1], a[0] >= b[0] and a[1] <= b[1]]
            wider = "A" if contains[0] else "B" if contains[1] else "each at one end"
        rows.append(
            {
                "name": name,
                "lowest": tuple(None if side is None else side[0] for side in (a, b)),
                "highest": tuple(None if side is None else side[1] for side in (a, b)),
                "wider": wider,
            }
        )
    return rows


def _names(mappings: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for mapping in mappings for name in mapping))
