"""The listener that adds an HTML page with the errors of the models to each published pipeline.

The setting KEPLER_REPORT=true adds the page as report.html. It can be an environment variable or a file in
the configuration folder. The page shows the error of every model beside the errors of two simple predictions:
a constant, and a straight line over the main feature. It also shows the errors on other work, recordings and nodes as
far as they were measured, the half-widths of the intervals, and the data of the training. Pictures show the errors, and
the power and the features of the recordings. The page has no predictions for the recordings: the models were fitted on
them, and the errors would look too small. `kepler-model plot` draws the predictions for another recording.
"""

from __future__ import annotations

import html
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from kepler_core.configuration import Configuration
from kepler_core.honesty.flags import ONE_RECORDING
from kepler_core.plugins.hooks import hookimpl

if TYPE_CHECKING:
    from kepler_core.recording.observations import Observations

SETTING = "KEPLER_REPORT"
FILE = "report.html"

# Each training calls its hooks on a single thread, and a server may run several trainings. So there is one list of
# models per thread.
_training = threading.local()

_STYLE = """body{font:15px system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#222}
table{border-collapse:collapse;width:100%}th,td{padding:.35rem .6rem;border-bottom:1px solid #ddd;text-align:left}
figure{margin:1rem 0}svg{max-width:100%;height:auto}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}.bad{color:#a30}
@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}th,td{border-color:#444}.bad{color:#f86}}"""


@hookimpl
def kepler_training_started(models: int) -> None:
    """Start an empty list of models for the training on this thread."""
    _training.models = []


@hookimpl
def kepler_model_trained(model: Mapping[str, Any]) -> None:
    """Add a trained or failed model to the list of the training on this thread."""
    if hasattr(_training, "models"):
        _training.models.append(model)


@hookimpl
def kepler_publishing(pipeline: str, files: dict[str, bytes], observations: Observations) -> None:
    """Add report.html to the files that are published, if the setting is true."""
    models = getattr(_training, "models", [])
    if Configuration().flag(SETTING):
        files[FILE] = page(pipeline, models, pictures(models, observations)).encode()


def pictures(models: Sequence[Mapping[str, Any]], observations: Observations) -> list[str]:
    """Return `<svg>` elements: the errors by trainer and feature group, the power curves, and the usage over time.

    matplotlib is imported here, because the listener is registered in processes that do not draw.
    """
    from kepler_core.plots.canvas import inline_svg
    from kepler_core.plots.panels import ModelError, curve_panel, error_panel, usage_panel
    from kepler_core.plots.recorded import measured_curves, measured_power, usage

    errors: dict[tuple[str, str], list[ModelError]] = {}
    for model in models:
        if "reason" not in model:
            error = ModelError(model["feature_group"], model["trainer"], model["mae"], model["mape"])
            errors.setdefault((model["source"], model["output_type"]), []).append(error)
    panels = [error_panel(", ".join(key), of_key) for key, of_key in sorted(errors.items())]
    power = []
    for source in sorted({source for source, _ in errors}):
        if curves := measured_curves(observations, source):
            panels.append(curve_panel(f"measured by {source}", curves))
        power += [
            attrs.evolve(node, component=f"{source} {node.component}") for node in measured_power(observations, source)
        ]
    panels.append(usage_panel("measured power and features in the recordings", power, usage(observations)))
    return [inline_svg(panel, f"picture-{number}") for number, panel in enumerate(panels)]


def page(pipeline: str, models: Sequence[Mapping[str, Any]], svgs: Sequence[str] = ()) -> str:
    """Return the HTML page.

    It lists the trained models by energy source, output type and error, then the failed models. `svgs` are pictures
    as `<svg>` elements.
    """
    trained = sorted(
        (model for model in models if "reason" not in model),
        key=lambda model: (model["source"], model["output_type"], model["mae"]),
    )
    failed = [model for model in models if "reason" in model]
    title = html.escape(f"Pipeline {pipeline}")
    rows = "".join(_row(model) for model in trained)
    failures = "".join(
        f"<li>{html.escape(model['trainer'])} ({html.escape(_where(model))}): {html.escape(str(model['reason']))}</li>"
        for model in failed
    )
    measured_on = html.escape(" or ".join(dict.fromkeys(model["held_out"] for model in trained)))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{_STYLE}</style><h1>{title}</h1>"
        f"<p>{len(trained)} models. Errors are in watts, measured on {measured_on}, for the component with the "
        f"largest error. Beside them are the errors of a constant and of a straight line through the main feature. "
        f"Red: the error is not below that of the line. Regimes: the error on kinds of work that were held out; other "
        f"recording and other node: the error on recordings and on nodes that were held out (–: never measured). "
        f"± 90 %: typical half-width of the interval that contains 90 % of the true values, on a machine of the "
        f"training.</p>{_seen(trained)}"
        f"<table><tr><th>source<th>type<th>features<th>trainer<th>component"
        f'<th class="n">MAE W<th class="n">MAPE %<th class="n">regimes<th class="n">other recording'
        f'<th class="n">other node<th class="n">± 90 %<th class="n">constant<th class="n">line</tr>{rows}</table>'
        + (f"<h2>Failed</h2><ul>{failures}</ul>" if failed else "")
        + (f"<h2>Pictures</h2>{''.join(f'<figure>{svg}</figure>' for svg in svgs)}" if svgs else "")
        + "</html>\n"
    )


def _seen(trained: Sequence[Mapping[str, Any]]) -> str:
    """Return paragraphs with the data of the training, and with the reason to doubt that all models share."""
    if not trained:
        return ""
    largest = max((model["seen"] for model in trained), key=lambda seen: int(seen["samples"]))
    counts = ", ".join(f"{name}: {number}" for name, number in largest.items())
    doubt = f"<p><b>{ONE_RECORDING}</b></p>" if all(m["splits"]["recordings"] is None for m in trained) else ""
    return f"<p>Data of the training: {counts}.</p>{doubt}"


def _where(model: Mapping[str, Any]) -> str:
    return f"{model['source']} {model['output_type']} {model['feature_group']}"


def _row(model: Mapping[str, Any]) -> str:
    components = model["components"]
    worst = max(components, key=lambda component: float(components[component]["mae"]))
    trivial = model["baselines"][worst]
    bad = ' class="bad"' if model["mae"] >= trivial["line_mae"] else ""
    texts = (model["source"], model["output_type"], model["feature_group"], model["trainer"], worst)
    splits = model["splits"]
    held_out = (splits["regimes"], splits["recordings"], splits["nodes"])
    numbers = (
        model["mae"],
        model["mape"],
        *held_out,
        model["half_width"],
        trivial["constant_mae"],
        trivial["line_mae"],
    )
    return (
        f"<tr{bad}>"
        + "".join(f"<td>{html.escape(str(text))}" for text in texts)
        + "".join(f'<td class="n">{"–" if number is None else format(number, ".2f")}' for number in numbers)
        + "</tr>"
    )
