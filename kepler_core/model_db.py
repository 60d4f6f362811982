"""Export a pipeline as a folder in the form of the public model database, kepler-model-db.

    README.md                           how the pipeline was trained, node types, and errors of the exported models
    error_report/node_type_<n>.md       the best models for a node type
    metadata.json, node_type_index.json, <source>_<output_type>_model_metadata.csv, profiles/<node_type>.json
    <source>/<output_type>/<feature_group>/<Trainer>_<node_type>.zip, .json and folder

If the user sets limits for the errors, the folder has only the models within these limits. The command `store import`
can read the folder as a pipeline. All texts and dates come from the pipeline, not from the clock, so that equal
pipelines give equal folders.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import attrs

from kepler_core.errors import StoreError, UsageError
from kepler_core.json_files import indented_json
from kepler_core.messages import printable, quoted
from kepler_core.models.power_model import METADATA_FILE, WEIGHT_FILE
from kepler_core.pipeline.node_types import node_type_index, profile_file
from kepler_core.selection import Catalogue
from kepler_core.selection.filters import Filter, Threshold, parse_filter
from kepler_core.store.layout import NODE_TYPE_INDEX, model_tables
from kepler_core.store.models import NodeType, StoredModel, read_models, read_node_types
from kepler_core.store.snapshot import Snapshot

README = "README.md"
REPORT_FOLDER = "error_report"
_ATTRIBUTES = ("processor", "cores", "chips", "memory", "frequency")
_TEXT_CHARACTERS = 1000
_SPECIAL = re.compile(r"[\\|<>\[\]`*&]")
"""Characters with a meaning in Markdown. `_` is not one of them: in names of models, it stands only inside of words,
where it has no meaning in Markdown."""


@attrs.frozen
class Publication:
    """What the exported metadata state about the pipeline's origin.

    If an attribute is None, the value of the stored pipeline is used.
    """

    publisher: str | None = None
    """Account or name of the publisher."""
    collect_time: str | None = None
    """Time at which the training data was recorded."""


def parse_limits(texts: Iterable[str]) -> tuple[Filter, ...]:
    """Parse the values of the option `--max-error`, and return the limits that they set for the errors of models.

    A text is the limit of `mae` in watts, or a list of limits in the syntax of filters, e.g. `mae:10;mape:20`.
    Raises `UsageError` if a text is malformed, or limits something other than an error.
    """
    limits = []
    for text in texts:
        try:
            limit = Filter((Threshold("mae", float(text)),), text=text)
        except ValueError:
            limit = parse_filter(text)
        if not limit.thresholds or limit.features is not None or any(t.at_least for t in limit.thresholds):
            raise UsageError(f"--max-error {text}: expected watts (e.g. 10) or limits of errors (e.g. mae:10;mape:20)")
        if not all(0 <= threshold.limit < float("inf") for threshold in limit.thresholds):
            raise UsageError(f"--max-error {text}: an error is at least 0, and a limit is finite")
        limits.append(limit)
    return tuple(limits)


def parse_collect_date(text: str | None) -> str | None:
    """Return the value of the option `--collect-date`, a date or a time in ISO 8601, or None without the option.

    Raises `UsageError` if the text is neither.
    """
    if text is not None:
        try:
            datetime.datetime.fromisoformat(text)
        except ValueError:
            raise UsageError(
                f"--collect-date: {quoted(text, 40)} is not a date (e.g. 2026-03-01 or 2026-03-01T12:00:00Z)"
            ) from None
    return text


def export_files(snapshot: Snapshot, limits: Sequence[Filter], publication: Publication) -> dict[str, bytes]:
    """Return the files of the exported folder, by path.

    A model is exported if it meets all conditions of at least one of `limits`, or if there are no limits. Raises
    `StoreError` if no model is exported, or if a file of the pipeline is missing or damaged.
    """
    stored = read_models(snapshot)
    models = _within(stored, limits)
    if not models:
        nearest = min(stored, key=lambda model: _score(model, "mae") or 0.0, default=None)
        which = "" if nearest is None else f"; the lowest MAE is {_number(nearest, 'mae')} W ({nearest.path})"
        raise StoreError(f"{snapshot.where}: none of {len(stored)} models is within {_limit_text(limits)}{which}")
    numbers = {model.node_type for model in models}
    types = {number: one for number, one in read_node_types(snapshot).items() if number in numbers}
    metadata = _metadata(snapshot, publication)
    files = {METADATA_FILE: indented_json(metadata), NODE_TYPE_INDEX: indented_json(node_type_index(types))}
    for model in models:
        files |= model.files()
        weights = f"{model.path}/{WEIGHT_FILE}"
        if weights in files:
            files.setdefault(f"{model.path}.json", files[weights])
    for number in sorted(numbers):
        if (profile := profile_file(number)) in snapshot.names:
            files[profile] = snapshot.read(profile)
        report = _error_report(number, types.get(number), [model for model in models if model.node_type == number])
        files[_report_file(number)] = report.encode()
    kept = f"{len(models)} of {len(stored)} models, those within {_limit_text(limits)}" if limits else "all models"
    files[README] = _readme(snapshot.pipeline, metadata, types, models, kept).encode()
    return dict(sorted((files | model_tables(model.table_row for model in models)).items()))


def _within(models: Sequence[StoredModel], limits: Sequence[Filter]) -> list[StoredModel]:
    if not limits:
        return list(models)
    catalogue = Catalogue(models, {}, {})
    paths = {model.path for limit in limits for model in catalogue.find(filter=limit)}
    return [model for model in models if model.path in paths]


def _metadata(snapshot: Snapshot, publication: Publication) -> dict[str, Any]:
    own = {key: value for key, value in attrs.asdict(publication).items() if value is not None}
    return {**snapshot.read_json(METADATA_FILE), "name": snapshot.pipeline, **own}


def _readme(
    pipeline: str,
    metadata: Mapping[str, Any],
    types: Mapping[int, NodeType],
    models: Sequence[StoredModel],
    kept: str,
) -> str:
    facts = [
        ("publisher", metadata.get("publisher")),
        ("data collected", metadata.get("collect_time")),
        ("trained", metadata.get("last_update_time") or metadata.get("init_time")),
        ("trained with", _versions(models)),
        ("trained on", _recordings(metadata.get("recordings"))),
        ("extractor", metadata.get("extractor")),
        ("isolator", metadata.get("isolator")),
        ("AbsPower trainers", _joined(metadata.get("abs_trainers"))),
        ("DynPower trainers", _joined(metadata.get("dyn_trainers"))),
        ("exported", kept),
    ]
    parts = [
        f"# {_cell(pipeline)}",
        _table(("", ""), [(key, value) for key, value in facts if value]),
        "MAE: mean absolute error in watts. MAPE: mean absolute percentage error. Both are the validated errors that "
        "the metadata of a model states. Weights are linked if Kepler evaluates them safely.",
        "## Node types",
        _table(
            ("node type", *_ATTRIBUTES, "machines", "models", "best models"),
            [_node_type_row(number, types.get(number), models) for number in _numbers(models)],
        ),
    ]
    for source, output_type in sorted({(model.source, model.output_type) for model in models}):
        rows = [model for model in models if (model.source, model.output_type) == (source, output_type)]
        parts += [f"## {_cell(source)} {output_type}", _model_table(rows, "")]
    return "\n\n".join(parts) + "\n"


def _versions(models: Sequence[StoredModel]) -> str:
    """Return the versions of Kepler Core that trained the models; empty if the models do not state them."""
    versions = set()
    for model in models:
        lineage = model.metadata.get("lineage")
        known = lineage.get("versions") if isinstance(lineage, dict) else None
        if isinstance(known, dict) and "kepler-core" in known:
            versions.add(f"Kepler Core {known['kepler-core']}")
    return ", ".join(sorted(versions))


def _recordings(streams: Any) -> str:
    """Return how many nodes and recordings the latest training used; empty if the metadata do not state it."""
    if not isinstance(streams, list) or not streams or not all(isinstance(stream, dict) for stream in streams):
        return ""
    nodes, recordings = (len({str(stream.get(key)) for stream in streams}) for key in ("node", "recording"))
    return f"recordings: {recordings}, nodes: {nodes}"


def _node_type_row(number: int, node_type: NodeType | None, models: Sequence[StoredModel]) -> tuple[Any, ...]:
    own = [model for model in models if model.node_type == number]
    spec = own[0].machine_spec if node_type is None else node_type.spec
    members = 0 if node_type is None else len(node_type.members)
    link = _link(f"node type {number}", _report_file(number))
    return (number, *(spec.get(key) for key in _ATTRIBUTES), members, len(own), link)


def _error_report(number: int, node_type: NodeType | None, models: Sequence[StoredModel]) -> str:
    """Return the page of a node type. It lists the best model for each energy source, output type and feature group."""
    spec = models[0].machine_spec if node_type is None else node_type.spec
    parts = [f"# Best models for node type {number}", _table(_ATTRIBUTES, [[spec.get(key) for key in _ATTRIBUTES]])]
    for title, usable in (
        ("Best weights, which Kepler evaluates itself", [model for model in models if model.weights is not None]),
        ("Best of all models", list(models)),
    ):
        best: dict[tuple[str, str, str], StoredModel] = {}
        for model in sorted(usable, key=_by_error):
            best.setdefault((model.source, model.output_type, model.feature_group), model)
        parts += [f"## {title}", _model_table([best[key] for key in sorted(best)], "../") if best else "No model."]
    return "\n\n".join(parts) + "\n"


def _model_table(models: Sequence[StoredModel], root: str) -> str:
    """Return a table of models. `root` is the relative path from the page's folder to the pipeline's folder."""
    return _table(
        ("source", "type", "feature group", "model", "MAE W", "MAPE %", "files"),
        [
            (
                model.source, model.output_type, model.feature_group, model.name, _number(model, "mae"),
                _number(model, "mape"), _links(model, root),
            )
            for model in sorted(models, key=_in_tables)
        ],
    )  # fmt: skip


def _links(model: StoredModel, root: str) -> _Markdown:
    links = [_link("zip", f"{root}{model.path}.zip")]
    if model.weights is not None:
        links.append(_link("weights", f"{root}{model.path}.json"))
    return _Markdown(", ".join(links))


def _link(text: str, path: str) -> _Markdown:
    return _Markdown(f"[{text}]({quote(path)})")


def _in_tables(model: StoredModel) -> tuple[Any, ...]:
    """Return the sort key of a model's row in a table."""
    return (model.source, model.output_type, model.feature_group, model.node_type, *_by_error(model))


def _by_error(model: StoredModel) -> tuple[float, str]:
    mae = _score(model, "mae")
    return (float("inf") if mae is None else mae, model.path)


def _score(model: StoredModel, name: str) -> float | None:
    return dict(zip(model.scores.names, model.scores.values, strict=True)).get(name)


def _number(model: StoredModel, name: str) -> str:
    value = _score(model, name)
    return "unknown" if value is None else f"{value:.2f}"


def _numbers(models: Sequence[StoredModel]) -> list[int]:
    return sorted({model.node_type for model in models})


def _limit_text(limits: Sequence[Filter]) -> str:
    return " or ".join(" and ".join(map(str, limit.thresholds)) for limit in limits)


def _report_file(number: int) -> str:
    return f"{REPORT_FOLDER}/node_type_{number}.md"


def _joined(names: Any) -> str:
    """Return a list of names as text, each name once. kepler-model-db repeats the names of trainers."""
    return ", ".join(dict.fromkeys(map(str, names))) if isinstance(names, list) else ""


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


class _Markdown(str):
    """Markdown that this module has made, so that `_cell` returns it unchanged."""


def _cell(value: Any) -> str:
    """Return a value as text in a table.

    Names come from files that others wrote. Their special characters are escaped, so that no name can begin a new
    cell, a link, an image or HTML.
    """
    if isinstance(value, _Markdown):
        return value
    return "-" if value is None else _SPECIAL.sub(r"\\\g<0>", printable(str(value), _TEXT_CHARACTERS))
