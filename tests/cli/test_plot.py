"""Tests of the command `plot`, and of the panels that it draws."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from support.command import kepler

from kepler_core.plots.canvas import Panel, inline_svg, picture
from kepler_core.plots.panels import (
    MAX_NODES,
    Curve,
    ModelError,
    NodePower,
    Usage,
    binned,
    curve_panel,
    error_panel,
    scatter_panel,
    time_panel,
    usage_panel,
)
from kepler_core.simulate import Simulation, write

TRAINERS = ("GradientBoostingRegressorTrainer", "LinearRegressionTrainer")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recording of two nodes (`r.json.gz`), and with a store of models that were trained on it."""
    folder = tmp_path_factory.mktemp("plot")
    write(Simulation(containers=4, timestamps=150, nodes=2), str(folder / "r.json.gz"))
    pipeline = {
        "energy_sources": ["rapl-sysfs"],
        "feature_groups": ["CounterOnly", "BPFOnly"],
        "validation": {"folds": 2, "regimes": 2},
        "abs_trainers": TRAINERS,
        "dyn_trainers": TRAINERS[1:],
    }
    (folder / "mine.yaml").write_text(json.dumps(pipeline))
    done = kepler("train", "mine.yaml", "-i", "r.json.gz", "-s", "models", "-j", "1", cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "models.png").mkdir()
    return folder


def texts(svg: str | bytes) -> list[str]:
    """Return the texts in an SVG picture. Raises an error if the picture is not XML."""
    return [(element.text or "").strip() for element in ElementTree.fromstring(svg).iter() if element.text]


def drawn(folder: Path, *arguments: str) -> list[str]:
    """Run `plot` and return the texts in the picture."""
    done = kepler("plot", *arguments, "-o", "x.svg", cwd=folder)
    assert done.returncode == 0, done.stderr
    return texts((folder / "x.svg").read_bytes())


def test_a_figure_has_everything_that_the_store_and_the_recording_allow(folder: Path) -> None:
    done = kepler("plot", "-s", "models", "-i", "r.json.gz", "-o", "all.png", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "all.png: scatter, time, curve, errors, usage\n")
    content = (folder / "all.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", content[16:24])
    assert width == 1100
    assert height > 2000
    assert not list(folder.glob(".*")), "no part of a file remains"


@pytest.mark.parametrize(
    ("kind", "title"),
    [
        ("scatter", "Predicted against measured power"),
        ("time", "Power over time"),
        ("curve", "Power against the main feature"),
        ("errors", "Validated errors (MAE, MAPE)"),
        ("usage", "Usage over time"),
    ],
)
def test_each_kind_is_drawn_alone(folder: Path, kind: str, title: str) -> None:
    shown = drawn(folder, "-s", "models", "-i", "r.json.gz", "--kind", kind)
    titles = {"Predicted against", "Power over", "Power against", "Validated errors", "Usage over"}
    assert [text for text in shown if any(text.startswith(one) for one in titles)] == [title] * (1 + (kind == "errors"))


def test_equal_commands_draw_equal_pictures(folder: Path) -> None:
    pictures = []
    for format in ("svg", "svg", "png", "png"):
        kinds = ("--kind", "scatter", "--kind", "errors")
        done = kepler("plot", "-s", "models", "-i", "r.json.gz", *kinds, "-o", f"e.{format}", cwd=folder)
        assert done.returncode == 0
        pictures.append((folder / f"e.{format}").read_bytes())
    assert pictures[0] == pictures[1]
    assert pictures[2] == pictures[3]
    assert b"dc:date" not in pictures[0]


@pytest.mark.parametrize("output_type", ["AbsPower", "DynPower"])
def test_the_scatter_plot_has_the_errors_of_estimate(folder: Path, output_type: str) -> None:
    model = ("-s", "models", "-i", "r.json.gz", "--output-type", output_type)
    estimate = json.loads(kepler("estimate", *model, "--json", cwd=folder).stdout)
    shown = drawn(folder, *model, "--kind", "scatter")
    for component, scores in estimate["components"].items():
        assert f"{component}: MAE {scores['mae']:.3g} W in this data" in shown
    assert {"measured (W)", "predicted (W)"} <= set(shown)
    assert any(estimate["model_name"] in text and "MAE in validation" in text for text in shown)


def test_the_errors_are_those_of_the_metadata(folder: Path) -> None:
    shown = drawn(folder, "-s", "models", "--kind", "errors", "--output-type", "AbsPower")
    paths = list(folder.glob("models/mine/rapl-sysfs/AbsPower/*/*/metadata.json"))
    assert len(paths) == 4
    for path in paths:
        metadata = json.loads(path.read_text())
        assert f"{metadata['mae']:.3g} W" in shown
        assert metadata["trainer"] in shown
    assert "mine, rapl-sysfs, AbsPower, node type 0" in shown


def test_the_curve_has_all_models_of_the_feature_group(folder: Path) -> None:
    shown = drawn(folder, "-s", "models", "-i", "r.json.gz", "--kind", "curve", "--feature-group", "CounterOnly")
    assert {"measured", *TRAINERS, "cpu_instructions (1/s)", "cache_miss (1/s)", "power (W)"} <= set(shown)
    shown = drawn(folder, "-s", "models", "-i", "r.json.gz", "--kind", "curve", "--trainer", TRAINERS[1])
    assert TRAINERS[0] not in shown


def test_a_recording_alone_gives_the_usage(folder: Path) -> None:
    shown = drawn(folder, "-i", "r.json.gz")
    assert {"package power (W)", "bpf_cpu_time_ms (ms/s)", "cpu_instructions (1/s)", "node-0", "node-1"} <= set(shown)
    assert any(re.fullmatch(r"minutes since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", text) for text in shown)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("-i", "r.json.gz", "-o", "x.jpg"), 2, "the name of a picture ends in .png or .svg"),
        (("-o", "x.png"), 2, "give --store, --input or both"),
        (("-s", "models", "--kind", "time", "-o", "x.png"), 2, "--kind time needs --input"),
        (("-i", "r.json.gz", "--kind", "errors", "-o", "x.png"), 2, "--kind errors needs --store"),
        (("-i", "missing.json", "-o", "no/x.png"), 2, "cannot write no/x.png: there is no folder no"),
        (("-i", "missing.json", "-o", "models.png"), 2, "cannot write models.png: it is a folder"),
        (("-s", "models", "--trainer", "SGDRegresor", "-o", "x.png"), 1, "no model of trainer 'SGDRegresor'; "),
        (("-s", "models", "--trainer", "LinearRegresion", "-o", "x.png"), 1, "did you mean LinearRegressionTrainer"),
        (("-s", "models", "--feature-group", "BPFOnli", "-o", "x.png"), 1, "did you mean BPFOnly"),
        (("-s", "models", "--node-type", "7", "-o", "x.png"), 1, "no model fits the options"),
        (("-s", "models.png", "-o", "x.png"), 1, "models.png: there are no models"),
        (("-i", "r.json.gz", "--source", "hmc", "-o", "x.png"), 1, "no power of hmc was measured"),
        (("-i", "r.json.gz", "--source", "rapl-sys", "-o", "x.png"), 2, "did you mean"),
    ],
)
def test_wrong_usage_is_one_line(folder: Path, arguments: tuple[str, ...], code: int, message: str) -> None:
    done = kepler("plot", *arguments, cwd=folder)
    assert (done.returncode, len(done.stderr.splitlines())) == (code, 1)
    assert message in done.stderr
    assert not (folder / "x.png").exists()


def test_kinds_that_the_data_does_not_allow_are_named(folder: Path) -> None:
    arguments = ("-s", "models", "-i", "r.json.gz", "--source", "acpi", "-o", "left.png")
    done = kepler("plot", *arguments, cwd=folder)
    assert done.returncode == 0
    assert "scatter is not drawn: " in done.stderr
    assert done.stderr.splitlines()[-1] == "left.png: usage"
    assert kepler("plot", *arguments, "--kind", "scatter", cwd=folder).returncode == 1


# --- panels ---


def node(name: str = "n", points: int = 50) -> NodePower:
    time = 1e9 + 3.0 * np.arange(points)
    watts = 10.0 + np.arange(points)
    return NodePower(name, "package", time, watts, watts + 1)


def axes_of(panel: Panel) -> list[matplotlib.axes.Axes]:
    figure = Figure()
    part = figure.subfigures(1, 1)
    panel.draw(part)
    return list(part.axes)


def test_names_from_outside_cannot_break_a_picture() -> None:
    hostile = "a$b_$<&>\n\x07{" + "x" * 500
    panels = [
        scatter_panel(hostile, [node(hostile), node("other")], {}),
        time_panel("", [node(hostile), node("other")]),
        curve_panel("", [Curve("package", hostile, "1/s", np.arange(9.0), None, {hostile: np.arange(9.0)})]),
        error_panel("", [ModelError(hostile, hostile, 1.0, None), ModelError("g", hostile, None, None)]),
        usage_panel("", [node(hostile)], [Usage("other", hostile, "1/s", np.arange(9.0), np.arange(9.0))]),
    ]
    for panel in panels:
        for text in texts(picture([panel], "svg")):
            assert len(text) <= 700
        assert any("a$b_$<&>" in text for text in texts(picture([panel], "svg")))


def test_pictures_of_one_page_share_no_id() -> None:
    svgs = [inline_svg(time_panel("", [node()]), name) for name in ("one", "two")]
    ids = [re.findall(r' id="([^"]+)"', svg) for svg in svgs]
    assert ids[0]
    assert not set(ids[0]) & set(ids[1])
    for svg, own in zip(svgs, ids, strict=True):
        assert svg.startswith("<svg")
        assert set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg)) == set(own)


def test_a_line_has_a_gap_where_samples_are_missing() -> None:
    whole = node()
    kept = np.r_[0:20, 30:50]
    assert whole.measured is not None
    broken = NodePower("n", "package", whole.time[kept], whole.measured[kept])
    (plot,) = axes_of(time_panel("", [broken]))
    (line,) = plot.get_lines()
    x = np.asarray(line.get_xdata(), dtype=float)
    assert np.flatnonzero(np.isnan(x)).tolist() == [20]
    assert np.nanmax(x) == pytest.approx(49 * 3 / 60)


def test_a_long_recording_of_many_nodes_gives_a_small_picture() -> None:
    nodes = [node(f"node-{number}", 20_000) for number in range(200)]
    panel = usage_panel("", nodes, [])
    assert f"{200 - MAX_NODES} more nodes are not drawn" in panel.subtitle
    assert sum(len(line.get_xdata()) for plot in axes_of(panel) for line in plot.get_lines()) <= MAX_NODES * 2000
    scatter = scatter_panel("", nodes, {})
    assert sum(len(line.get_xdata()) for plot in axes_of(scatter) for line in plot.get_lines()) <= 2200
    assert len(axes_of(time_panel("", nodes))) == 12


def test_recordings_of_different_days_begin_together() -> None:
    later = node("later")
    moved = NodePower("later", "package", later.time + 86400, later.measured, later.predicted)
    plots = axes_of(time_panel("", [node("first"), moved]))
    assert plots[-1].get_xlabel() == "minutes since the first sample of each node"
    assert max(line.get_xdata()[-1] for plot in plots for line in plot.get_lines()) < 3


def test_a_curve_connects_means_of_similar_samples() -> None:
    load = np.array([3.0, 1.0, np.nan, 2.0])
    x, y = binned(load, np.array([30.0, 10.0, 99.0, 20.0]))
    assert (x.tolist(), y.tolist()) == ([1, 2, 3], [10, 20, 30])
    many = np.arange(900.0)
    x, y = binned(many, 2 * many)
    assert len(x) == 30
    assert np.allclose(y, 2 * x)


def test_a_cell_of_several_node_types_has_the_median() -> None:
    errors = [ModelError("g", "T", mae, mape) for mae, mape in ((1.0, 10.0), (2.0, 20.0), (9.0, None))]
    (plot,) = axes_of(error_panel("", errors))
    assert [text.get_text() for text in plot.texts] == ["2 W\n15 %"]
