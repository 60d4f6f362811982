"""The page: texts and tables from the results of a training, rendered with the template page.html.j2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from kepler_core.honesty.flags import ONE_RECORDING
from kepler_core.pipeline.evidence import Evidence
from kepler_core.pipeline.node_tables import NodeTable, headline
from kepler_core.recording.observations import Observations
from kepler_core.yaml_documents import encode_yaml
from kepler_plugins.report.chosen import SPLIT_WORDS, Chosen, chosen_models
from kepler_plugins.report.pictures import Pictures, of_model, of_training
from kepler_plugins.report.templates import render

TABLE_COLUMNS = (
    ("source", "Energy source"),
    ("output_type", "Type"),
    ("feature_group", "Features"),
    ("trainer", "Trainer"),
    ("component", "Worst component"),
    ("mae", "MAE W"),
    ("mape", "MAPE %"),
    ("regimes", "regimes"),
    ("recordings", "other recording"),
    ("nodes", "other node"),
    ("half_width", "± 90 %"),
    ("idle_bias", "idle bias W"),
    ("zero_watts", "zero W"),
    ("constant", "constant"),
    ("line", "line"),
)
"""The columns of the table of all models: their keys and their headings."""


def page(
    pipeline: str,
    observations: Observations,
    evidence: Sequence[Evidence],
    report: Mapping[str, Any],
    document: Mapping[str, Any],
) -> str:
    """Return the report as one HTML document without references to other files.

    The arguments are those of the hook `kepler_publishing`. Equal arguments give equal pages.
    """
    pictures, chosen = Pictures(), chosen_models(evidence)
    return render(
        "page.html.j2",
        pipeline=pipeline,
        report=report,
        summary=_summary(report, chosen),
        doubt=ONE_RECORDING if all(model["splits"]["recordings"] is None for model in report["models"]) else "",
        columns=TABLE_COLUMNS,
        rows=[_row(model) for model in _sorted(report["models"])],
        held_out=" or ".join(dict.fromkeys(model["held_out"] for model in report["models"])),
        chosen=[
            {
                "title": f"{one.evidence.metadata['source']} {one.evidence.metadata['output_type']}",
                "model": one,
                "metadata": one.evidence.metadata,
                "seen": one.honesty.seen,
                "twin": one.honesty.twin,
                "pictures": of_model(pictures, one, observations),
            }
            for one in chosen
        ],
        headlines=[headline(msgspec.convert(table, NodeTable)) for table in report["nodes"]],
        recordings=observations.streams,
        pictures=of_training(pictures, report["models"], observations),
        lineage=evidence[0].metadata["lineage"] if evidence else {},
        document=encode_yaml(document),
    )


def _sorted(models: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted(models, key=lambda model: (model["source"], model["output_type"], model["mae"]))


def _row(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row for a model in the table of all models. The row has the keys of `TABLE_COLUMNS`."""
    components = model["components"]
    worst = max(components, key=lambda component: float(components[component]["mae"]))
    baseline, splits = model["baselines"][worst], model["splits"]
    return {
        **{key: model[key] for key in ("source", "output_type", "feature_group", "trainer", "mae", "mape")},
        **{key: splits[key] for key in ("regimes", "recordings", "nodes")},
        **{key: model[key] for key in ("half_width", "idle_bias")},
        "component": worst,
        "zero_watts": max(
            (errors["zero_watts"] for errors in components.values() if "zero_watts" in errors), default=None
        ),
        "constant": baseline["constant_mae"],
        "line": baseline["line_mae"],
        "bad": model["mae"] >= baseline["line_mae"],
    }


def _summary(report: Mapping[str, Any], chosen: Sequence[Chosen]) -> list[str]:
    """Return the sentences at the top of the page, for people who read nothing else."""
    models = report["models"]
    largest = max((model["seen"] for model in models), key=lambda seen: int(seen["samples"]))
    counted = {name: f"{largest[name]:,} {name if largest[name] != 1 else name[:-1]}" for name in largest}
    sentences = [
        f"{len(models)} models were trained from {counted['samples']} of {counted['nodes']} in "
        f"{counted['recordings']} on {counted['days']}."
    ]
    for one in chosen:
        metadata, name = one.evidence.metadata, one.components[0]
        blocks, hardest = one.honesty.splits["blocks"], one.honesty.hardest_errors
        assert blocks is not None  # every training measures blocks
        text = (
            f"The best {metadata['output_type']} model of {metadata['source']} is {metadata['trainer']} over the "
            f"features {metadata['feature_group']}. For work and days like those of the training, its mean error for "
            f"{name} is {blocks.components[name].mae:.1f} W"
        )
        if one.honesty.hardest != "blocks":
            where = SPLIT_WORDS[one.honesty.hardest].lower()
            text += f". For {where}, it is {hardest.components[name].mae:.1f} W"
        widths = {row["component"]: row["half_width"] for row in one.interval_rows()}
        if name in widths:
            text += f". An estimate has a 90 % interval of typically ± {widths[name]:.1f} W"
        sentences.append(f"{text}.")
    if worse := sum(_row(model)["bad"] for model in models):
        sentences.append(f"{worse} models are no better than a straight line; the table shows them in red.")
    if report["failed"]:
        sentences.append(f"{len(report['failed'])} fits failed; see below.")
    return sentences
