"""The command `plot`, which draws the models of a store and the power in a recording."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from kepler_core.atomic_files import check_output, whole_file
from kepler_core.cli.estimate import best_model, observed
from kepler_core.cli.examples import examples
from kepler_core.cli.inputs import input_option, metric_prefix_option, parse_vm_guests, store_option, vm_guest_option
from kepler_core.cli.output import json_errors_option, watts
from kepler_core.errors import KeplerError, RecordingError, StoreError, UsageError, close_matches
from kepler_core.messages import quoted
from kepler_core.vocabulary import OUTPUT_TYPES, OutputType

if TYPE_CHECKING:
    from kepler_core.estimate import Estimate
    from kepler_core.plots.canvas import Panel, PictureFormat
    from kepler_core.recording.observations import Observations
    from kepler_core.selection import Catalogue
    from kepler_core.store.models import StoredModel

KINDS = ("scatter", "time", "curve", "errors", "usage")
_NEEDS_RECORDING = ("scatter", "time", "curve", "usage")
_NEEDS_STORE = ("scatter", "time", "curve", "errors")
MAX_ERROR_PANELS = 12
"""Maximum number of error panels in one figure. The limit keeps the figure readable and bounds the memory."""


@attrs.frozen(eq=False)
class _Choice:
    """The options that choose which models and which power the figure shows."""

    source: str | None
    output_type: OutputType | None
    feature_group: str | None
    trainer: str | None
    pipeline: str | None
    node_type: int | None


@click.command(
    epilog=examples("plot -s models -i other.json.gz -o other.png", "plot -s models --kind errors -o errors.svg")
)
@store_option(required=False)
@input_option(required=False)
@click.option(
    "--kind",
    "kinds",
    type=click.Choice(KINDS),
    multiple=True,
    help="What to draw (see above); can be repeated.  [default: all kinds for which --store and --input suffice]",
)
@click.option("--source", help="Name of the energy source, or its alias.  [default: rapl-sysfs; errors: any]")
@click.option("--output-type", type=click.Choice(OUTPUT_TYPES), help="[default: AbsPower; errors: both]")
@click.option("--feature-group", help="Name of a feature group. Use only its models.")
@click.option("--trainer", help="Name of a trainer. Use only its models.")
@click.option("--pipeline", help="Name of a pipeline. Use only its models.")
@click.option("--node-type", type=click.IntRange(0), help="Use only models of the node type with this number.")
@click.option("--vm", "use_vm_metrics", is_flag=True, help='Use the metrics of a VM and of its processes (job="vm").')
@vm_guest_option()
@metric_prefix_option()
@click.option("-o", "--output", metavar="FILE", required=True, help="Picture to write (.png or .svg).")
@json_errors_option
def plot(
    store: str | None,
    inputs: tuple[str, ...],
    kinds: tuple[str, ...],
    source: str | None,
    output_type: OutputType | None,
    feature_group: str | None,
    trainer: str | None,
    pipeline: str | None,
    node_type: int | None,
    use_vm_metrics: bool,
    vm_guests: tuple[str, ...],
    metric_prefix: str | None,
    output: str,
) -> None:
    """Draw the models of a store and the power in a recording, as a PNG or SVG file.

    \b
    scatter  power predicted by the best model, against measured power            --store --input
    time     predicted and measured power over time                               --store --input
    curve    power against the main feature: measured points, and all models of
             the best model's pipeline and feature group                          --store --input
    errors   validated errors of all models, by trainer and feature group. If
             --kind is not given and the best model is drawn too: only the
             errors of models with the same pipeline, source, output type
             and node type as the best model                                      --store
    usage    measured power and all features over time                            --input

    The power of a DynPower model is the sum over the containers of a node. Components whose power is always 0
    are not drawn. --vm-guest implies --vm.
    """
    format = _format_of(output)
    check_output(output)
    chosen = _chosen_kinds(kinds, store, inputs)
    guests = parse_vm_guests(vm_guests)
    from kepler_core.plots.canvas import picture
    from kepler_core.selection import Catalogue, read_catalogue
    from kepler_core.store import open_store

    catalogue = (
        Catalogue([], {}, {})
        if store is None
        else read_catalogue(open_store(store), pipelines=None if pipeline is None else [pipeline])
    )
    observations = (
        observed(catalogue, inputs, use_vm_metrics=use_vm_metrics, vm_guests=guests, metric_prefix=metric_prefix)
        if inputs and set(chosen) & set(_NEEDS_RECORDING)
        else None
    )
    figure = _Figure(catalogue, observations, _Choice(source, output_type, feature_group, trainer, pipeline, node_type))
    panels = figure.panels(chosen, strict=bool(kinds))
    _write(Path(output), picture(panels, format))
    click.echo(f"{output}: {', '.join(figure.drawn)}", err=True)


def _format_of(output: str) -> PictureFormat:
    match Path(output).suffix.lower():
        case ".png":
            return "png"
        case ".svg":
            return "svg"
        case _:
            raise UsageError(f"cannot write {output}: the name of a picture ends in .png or .svg")


def _chosen_kinds(kinds: tuple[str, ...], store: str | None, inputs: tuple[str, ...]) -> list[str]:
    """Return the kinds of panels to draw, in the order of `KINDS`.

    Raises `UsageError` if an option that a kind needs is missing.
    """
    if store is None and not inputs:
        raise UsageError("give --store, --input or both")
    lacking = {
        kind: "--store" if store is None and kind in _NEEDS_STORE else "--input"
        for kind in KINDS
        if (store is None and kind in _NEEDS_STORE) or (not inputs and kind in _NEEDS_RECORDING)
    }
    if wrong := [kind for kind in kinds if kind in lacking]:
        raise UsageError(f"--kind {wrong[0]} needs {lacking[wrong[0]]}")
    return [kind for kind in KINDS if kind in (kinds or KINDS) and kind not in lacking]


class _Figure:
    """The panels of a figure. The best model is selected, and models are applied, only if a panel needs the result."""

    def __init__(self, catalogue: Catalogue, observations: Observations | None, choice: _Choice) -> None:
        self.drawn: list[str] = []
        """Kinds of panels that the figure shows."""
        self._catalogue = catalogue
        self._recorded = observations
        self._choice = choice
        self._best: StoredModel | None = None
        self._estimates: dict[str, Estimate] = {}
        """Maps the path of a model to its estimates, which several panels need."""

    def panels(self, kinds: list[str], *, strict: bool) -> list[Panel]:
        """Return the panels of the given kinds.

        If `strict` is true, an error of a panel is raised. If it is false, a panel that the data do not allow is left
        out, and a line on standard error gives the reason. If all panels fail, the last error is raised.
        """
        draw: Mapping[str, Callable[[], list[Panel]]] = {
            "scatter": self._scatter, "time": self._time, "curve": self._curve,
            "errors": partial(self._errors, strict=strict),
            "usage": self._usage,
        }  # fmt: skip
        panels: list[Panel] = []
        for kind in kinds:
            try:
                panels += draw[kind]()
            except KeplerError as error:
                if strict or (kind == kinds[-1] and not panels):
                    raise
                click.echo(f"kepler-model: {kind} is not drawn: {error}", err=True)
            else:
                self.drawn.append(kind)
        return panels

    @property
    def _observations(self) -> Observations:
        assert self._recorded is not None
        return self._recorded

    def _model(self) -> StoredModel:
        if self._best is None:
            choice = self._choice
            conditions: dict[str, Any] = {} if choice.source is None else {"source": choice.source}
            self._best = best_model(
                self._catalogue,
                self._observations,
                output_type=choice.output_type or "AbsPower",
                pipeline=choice.pipeline,
                feature_group=choice.feature_group,
                trainer=choice.trainer,
                node_type=choice.node_type,
                **conditions,
            )
        return self._best

    def _estimate(self, model: StoredModel) -> Estimate:
        from kepler_core.estimate import estimate

        if model.path not in self._estimates:
            self._estimates[model.path] = estimate(model, self._observations)
        return self._estimates[model.path]

    def _scatter(self) -> list[Panel]:
        from kepler_core.plots.estimated import estimated_power
        from kepler_core.plots.panels import scatter_panel

        model = self._model()
        estimated = self._estimate(model)
        nodes = [node for node in estimated_power(estimated, self._observations) if node.measured is not None]
        if not nodes:
            raise RecordingError(f"no power of {model.source} was measured in the recording")
        errors = {component: figures["mae"] for component, figures in estimated.components.items()}
        return [scatter_panel(_described(model), nodes, errors)]

    def _time(self) -> list[Panel]:
        from kepler_core.plots.estimated import estimated_power
        from kepler_core.plots.panels import time_panel

        model = self._model()
        nodes = estimated_power(self._estimate(model), self._observations)
        if not nodes:
            raise RecordingError("the predicted and the measured power are always 0")
        return [time_panel(_described(model), nodes)]

    def _curve(self) -> list[Panel]:
        from kepler_core.plots.estimated import power_curves
        from kepler_core.plots.panels import curve_panel

        best = self._model()
        models = self._catalogue.find(
            source=best.source,
            output_type=best.output_type,
            pipeline=best.pipeline,
            feature_group=best.feature_group,
            trainer=self._choice.trainer,
            node_type=best.node_type,
        )
        usable = sorted((model for model in models if model.portable), key=lambda model: model.trainer)
        curves = power_curves([self._estimate(model) for model in usable], self._observations)
        if not curves:
            raise RecordingError("the predicted and the measured power are always 0")
        where = f"{best.pipeline}, {best.source}, {best.output_type}, {best.feature_group}"
        return [curve_panel(f"{where}, node type {best.node_type}", curves)]

    def _errors(self, *, strict: bool) -> list[Panel]:
        from kepler_core.plots.estimated import model_errors
        from kepler_core.plots.panels import error_panel

        conditions = attrs.asdict(self._choice)
        if self._best is not None and not strict:
            # Without --kind, other panels show the best model. Draw only the errors of models that are similar to it.
            best = self._best
            conditions |= {"source": best.source, "output_type": best.output_type}
            conditions |= {"pipeline": best.pipeline, "node_type": best.node_type}
        models = self._catalogue.find(**conditions)
        if not models:
            raise StoreError(f"{self._catalogue.location}: {self._no_model()}")
        node_types = sorted({model.node_type for model in models})
        which = f"node type {node_types[0]}" if len(node_types) == 1 else f"median of {len(node_types)} node types"
        errors = model_errors(models)
        if len(errors) > MAX_ERROR_PANELS:
            raise UsageError(
                f"{len(errors)} tables of errors, at most {MAX_ERROR_PANELS} are drawn; "
                "choose with --pipeline, --source or --output-type"
            )
        return [error_panel(f"{', '.join(key)}, {which}", of_key) for key, of_key in errors.items()]

    def _no_model(self) -> str:
        """Return the reason why no model fits: the first option whose value no model has, and similar values."""
        models = self._catalogue.models
        if not models:
            return "there are no models"
        for key in ("output_type", "feature_group", "trainer"):
            names = {getattr(model, key) for model in models}
            if (name := getattr(self._choice, key)) is not None and name not in names:
                return f"no model of {key.replace('_', ' ')} {quoted(name)}; {close_matches(name, names)}"
        return "no model fits the options"

    def _usage(self) -> list[Panel]:
        from kepler_core.plots.panels import usage_panel
        from kepler_core.plots.recorded import measured_power, usage
        from kepler_core.selection.request import DEFAULT_SOURCE
        from kepler_core.selection.sources import matching_sources

        recorded = self._observations.sources
        matching = matching_sources(self._choice.source or DEFAULT_SOURCE, recorded) & set(recorded)
        if not matching and self._choice.source is not None:
            names = ", ".join(recorded) or "none"
            raise RecordingError(f"no power of {self._choice.source} was measured in the recording (measured: {names})")
        # Without --source, show the power of the default energy source or, if the recording lacks it, of another one.
        source = min(matching or recorded, default="")
        subtitle = f"features, and measured power of {source}" if source else "features"
        return [usage_panel(subtitle, measured_power(self._observations, source), usage(self._observations))]


def _described(model: StoredModel) -> str:
    parts = (model.pipeline, model.source, model.output_type, model.feature_group, model.name)
    return f"{', '.join(parts)}; MAE in validation {watts(model.metadata['mae'])} W"


def _write(output: Path, content: bytes) -> None:
    try:
        with whole_file(output, f".{uuid.uuid4().hex}") as file:
            file.write(content)
    except OSError as error:
        raise UsageError(f"cannot write {output}: {error.strerror or error}") from error
