"""Tests of three outputs of `kepler-model estimate`: intervals, their coverage, and reasons to doubt the watts."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pandas")
pytest.importorskip("scipy")

from support.command import kepler
from support.linear_models import LinearModel, publish
from support.small_pipelines import BPF

from kepler_core.simulate import Simulation, recording

NODE = "node-0"
QUANTILE, MACHINE_ERROR = 12.0, 0.15
TERMS: dict[str, Any] = {
    "lowest": 10.0, "highest": 200.0, "edges": [], "quantiles": [QUANTILE], "session": 0.0,
    "machine_idle": MACHINE_ERROR, "machine_loaded": MACHINE_ERROR, "noise": 0.0,
}  # fmt: skip
WATTS: dict[str, tuple[float, dict[str, float]]] = {
    "package": (20.0, {"bpf_cpu_time_ms": 0.01, "bpf_page_cache_hit": 0.0}),
    "dram": (1.0, {}),
}


def honesty(node: str = NODE, **changes: Any) -> dict[str, Any]:
    """Return a block `honesty` (errors and intervals) for a model of two recordings of the node `node`."""
    errors = {"mae": 1.0, "components": {}, "parts": 2}
    seen = {"recordings": 2, "days": 2, "nodes": 1, "samples": 100, "features": {}, "node_names": [node]}
    return {
        "splits": {"blocks": errors, "recordings": errors},
        "hardest": "blocks",
        "seen": seen,
        "level": 0.9,
        "intervals": {"package": TERMS},
        **changes,
    }


def record(folder: Path, node: str = NODE) -> None:
    """Write a recording of a machine whose label `instance` is `node`."""
    content = recording(Simulation(containers=2, timestamps=80, sockets=1, accelerator=False))
    text = json.dumps(content)
    assert f'"instance": "{NODE}"' in text
    (folder / "r.json").write_text(text.replace(f'"instance": "{NODE}"', f'"instance": "{node}"'))


def estimate(folder: Path, *arguments: str) -> dict[str, Any]:
    done = kepler("estimate", "-s", "store", "-i", "r.json", "--feature-group", "BPFOnly", *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout)) if "--json" in arguments else {"text": done.stdout}


def columns(folder: Path) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    """Write all estimates to a CSV table. Return its columns by name, with NaN in place of empty cells."""
    estimate(folder, "-o", "estimates.csv")
    with (folder / "estimates.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {
        name: np.array([float(row[name] or "nan") for row in rows])
        for name in rows[0]
        if name.startswith(("package", "dram"))
    }


@pytest.mark.parametrize("node", [NODE, "other-node"], ids=["machine of the training", "another machine"])
def test_intervals_and_their_coverage(node: str, tmp_path: Path) -> None:
    publish(tmp_path / "store", LinearModel(watts=WATTS, honesty=honesty(node)))
    record(tmp_path)
    table = columns(tmp_path)
    summary = estimate(tmp_path, "--json")
    predicted, measured = table["package_predicted"], table["package_measured"]
    half = np.hypot(QUANTILE, (0.0 if node == NODE else MACHINE_ERROR) * predicted)
    np.testing.assert_allclose(table["package_upper"], predicted + half, atol=2e-3)
    np.testing.assert_allclose(table["package_lower"], np.maximum(predicted - half, 0.0), atol=2e-3)
    known = np.isfinite(measured)
    package = summary["components"]["package"]
    assert package["half_width"] == pytest.approx(half.mean(), rel=1e-4)
    assert package["coverage"] == pytest.approx(np.mean(np.abs(measured - predicted)[known] <= half[known]), abs=1e-9)
    assert 0.05 < package["coverage"] < 0.95
    assert (summary["level"], list(summary["flags"])) == (0.9, [] if node == NODE else ["other_machine"])
    assert "dram_upper" not in table
    assert (summary["components"]["dram"]["half_width"], summary["components"]["dram"]["coverage"]) == (None, None)


@pytest.mark.parametrize(
    ("trained", "flags"),
    [
        ("localhost:9102", ["other_machine"]),
        ("127.0.0.1:9102", ["other_machine"]),
        ("[::1]:9102", ["other_machine"]),
        ("10.0.0.7:9102", []),
    ],
)
def test_a_name_that_every_machine_has_does_not_identify_it(trained: str, flags: list[str], tmp_path: Path) -> None:
    publish(tmp_path / "store", LinearModel(watts=WATTS, honesty=honesty(trained)))
    record(tmp_path, trained)
    assert list(estimate(tmp_path, "--json")["flags"]) == flags


def test_reasons_to_doubt_are_printed(tmp_path: Path) -> None:
    """The command prints four reasons to doubt the estimated watts.

    The model was trained on a single recording. The recording is from another machine. All samples are above the
    training range of the model. The model's twin predicts other watts.
    """
    twin = {"model_name": "SGDRegressorTrainer_0", "feature_group": "CPUTime", "limits": {"package": 1.0}}
    block = honesty("other-node", splits={"blocks": honesty()["splits"]["blocks"]}, twin=twin)
    publish(
        tmp_path / "store",
        LinearModel(watts=WATTS, honesty=block, lowest=1e6),
        LinearModel(group="CPUTime", features=BPF[:1], watts={"package": (90.0, {}), "dram": (3.0, {})}),
    )
    record(tmp_path)
    summary = estimate(tmp_path, "--json")
    rows = summary["rows"]
    assert (summary["outside"], summary["disagreements"]) == (rows, rows)
    assert list(summary["flags"]) == ["one_session_only", "extrapolating", "disagreement", "other_machine"]
    table = columns(tmp_path)
    assert (table["package_predicted"] == 90.0).all()
    assert (table["dram_predicted"] == 3.0).all()
    text = estimate(tmp_path)["text"]
    assert f"{rows} of {rows} rows are outside the range of the training" in text
    for flag, sentence in summary["flags"].items():
        assert f"  - {flag}: {sentence}\n" in text


@pytest.mark.parametrize(("lowest", "flags"), [(None, []), (1e6, ["extrapolating"])])
def test_a_model_that_states_nothing(lowest: float | None, flags: list[str], tmp_path: Path) -> None:
    """Rows outside the training range are flagged even if the model's metadata state no errors and intervals."""
    publish(tmp_path / "store", LinearModel(watts=WATTS, lowest=lowest))
    record(tmp_path)
    summary = estimate(tmp_path, "--json")
    assert (list(summary["flags"]), summary["level"]) == (flags, None)
    assert summary["components"]["package"]["half_width"] is None
    header = estimate(tmp_path)["text"].splitlines()[3]
    assert "± W" in header


def test_malformed_statements_are_an_error_of_one_line(tmp_path: Path) -> None:
    wrong: Mapping[str, Any] = honesty(intervals={"package": {**TERMS, "quantiles": []}})
    publish(tmp_path / "store", LinearModel(watts=WATTS, honesty=wrong))
    record(tmp_path)
    done = kepler("estimate", "-s", "store", "-i", "r.json", cwd=tmp_path)
    assert done.returncode == 1
    assert "the load bins of package are not consistent" in done.stderr
    assert len(done.stderr.splitlines()) == 1
