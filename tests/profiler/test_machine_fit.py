"""Tests of `kepler-model machines fit`, and of the errors of its machine formula for publicly measured machines."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from support.command import kepler
from support.paths import ROOT, SHARED
from support.server_process import serving

from kepler_core.json_files import indented_json
from kepler_core.store import open_store
from kepler_core.store.models import read_models
from kepler_profiler.formula import Estimate
from kepler_profiler.machine_calibration import IntervalFactors, processor_of
from kepler_profiler.machine_description import MachineDescription
from kepler_profiler.machine_features import LOAD
from kepler_profiler.machine_model import find_machine_model
from kepler_profiler.machine_tables import read_machines

pytest.importorskip("sklearn")

PUBLIC = SHARED / "data" / "public"
COEFFICIENTS = ROOT / "config" / "kepler_config" / "machines" / "formula.json"


def table(path: Path) -> Path:
    """Write a table of 30 machines. A machine's power is proportional to the thermal design power of all its chips."""
    lines = ["machine_id,tdp_w,chips,cores,threads,memory_gb,hw_year,load_pct,power_w"]
    for number in range(30):
        tdp, chips = 60 + 5 * number, 1 + number % 2
        for load in range(0, 101, 10):
            watts = chips * tdp * (0.4 + 0.01 * load)
            lines.append(
                f"m{number},{tdp},{chips},{chips * 16},{chips * 32},{64 + number},{2010 + number // 3},{load},{watts}"
            )
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_table_of_machines_becomes_a_stored_model(store: Path) -> None:
    (stored,) = read_models(open_store(str(store)).snapshot("own"))
    assert stored.trainer == "MachinePowerTrainer"
    assert stored.metadata["honesty"]["intervals"]["platform"]["machine_measured"]
    model = stored.load()
    features = {"machine_tdp_w": 300.0, "machine_chip_tdp_w": 150.0, "machine_chips": 2.0, "machine_cores": 32.0}
    features |= {"machine_threads": 64.0, "machine_memory_gib": 80.0, "machine_year": 2015.0}
    rows = np.array([[{**features, LOAD: load}.get(name, 0.0) for name in model.features] for load in (0.0, 0.5, 1.0)])
    watts = model.predict(rows)["platform"]
    assert 0 < watts[0] < watts[1] < watts[2]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two pipelines: `own`, and `own-idle` for machines whose idle power is known."""
    folder = tmp_path_factory.mktemp("machines")
    own = table(folder / "own.csv")
    for arguments in (("-n", "own"), ("-n", "own-idle", "--with-idle")):
        done = kepler("machines", "fit", own, "-s", folder / "models", "-j", "1", *arguments)
        assert done.returncode == 0, done.stderr
    return folder / "models"


MACHINE = ("--threads", "64", "--cores", "32", "--chips", "2", "--memory", "80", "--tdp", "150", "--year", "2015")


def estimated(store: Path, *arguments: str) -> Any:
    done = kepler("machines", "estimate", *MACHINE, "-s", store, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_described_machine_is_estimated_with_a_stored_model(store: Path) -> None:
    """Estimates agree with the training table: 0.4 times (idle) to 1.4 times (full load) the thermal design power."""
    answer = estimated(store)
    assert answer["source"]["kind"] == "model"
    assert answer["source"]["name"].startswith("own/acpi/AbsPower/")
    assert answer["source"]["version"] == "1"
    for row in answer["estimates"]:
        assert row["lower"] < row["watts"] < row["upper"]
        assert row["watts"] == pytest.approx(300 * (0.4 + row["load"]), rel=0.4)
    watts = [row["watts"] for row in answer["estimates"]]
    assert watts == sorted(watts)
    assert answer["estimates"][0]["error_class"] == "trained"


def test_a_known_idle_power_is_exact_at_idle_and_chooses_the_model_that_uses_it(store: Path) -> None:
    answer = estimated(store, "--idle-watts", "120")
    assert answer["source"]["name"].startswith("own-idle/")
    idle, *_, full = answer["estimates"]
    assert (idle["watts"], idle["idle"]) == (pytest.approx(120, abs=0.1), pytest.approx(120, abs=0.1))
    assert idle["upper"] == pytest.approx(120 * 1.03, rel=0.01)
    assert full["watts"] == pytest.approx(420, rel=0.02)
    other = estimated(store, "--idle-watts", "120", "--pipeline", "own")
    assert other["source"]["name"].startswith("own/")
    assert other["estimates"][0]["watts"] == pytest.approx(120)
    assert other["estimates"][-1]["watts"] > 200


def test_watts_uses_a_model_of_machines_before_the_formula(store: Path) -> None:
    done = kepler("watts", "-s", store, "--source", "machine-model", "--source", "formula", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["source"]["kind"], report["source"]["name"]) == ("model", estimated(store)["source"]["name"])


def test_the_interval_depends_on_what_is_new_about_a_machine(store: Path) -> None:
    model = find_machine_model(open_store(str(store)), pipeline="own")
    assert model.factors is not None, "the pipeline has the file with the factors"
    machine = MachineDescription(threads=64, cores=32, chips=2, tdp_watts=150.0, memory_gib=80.0, year=2015)
    assert model.factors.has(machine)

    def widths(factors: IntervalFactors | None, machine: MachineDescription) -> tuple[float, str]:
        estimate = attrs.evolve(model, factors=factors).estimate(machine, 0.5)
        assert isinstance(estimate, Estimate)
        return estimate.upper / estimate.watts - 1, estimate.error_class

    processor = processor_of(machine)
    assert processor is not None
    plain, _ = widths(None, machine)
    assert widths(IntervalFactors(1, [processor], 0.5, 2.0), machine) == (pytest.approx(plain / 2), "trained")
    assert widths(IntervalFactors(1, [], 0.5, 2.0), machine) == (pytest.approx(plain), "trained")
    newer = attrs.evolve(machine, year=2023)
    assert widths(IntervalFactors(1, [processor], 0.5, 20.0), newer)[1] == "newer"
    wide, _ = widths(IntervalFactors(1, [processor], 0.5, 20.0), newer)
    assert wide == pytest.approx(2 * widths(IntervalFactors(1, [processor], 0.5, 10.0), newer)[0], rel=1e-6)
    assert widths(IntervalFactors(1, [processor], 0.5, None), newer)[1] == "outside"
    unlike = attrs.evolve(newer, chips=16)
    assert widths(IntervalFactors(1, [processor], 0.5, 2.0), unlike)[1] == "outside"


def test_watts_gets_a_model_of_machines_from_a_model_server(store: Path, tmp_path: Path) -> None:
    own = estimated(store)["source"]["name"]
    sources = ("--source", "machine-model", "--source", "formula", "--json")
    with serving(store, tmp_path / "log") as server:
        url = f"http://127.0.0.1:{server.port}"
        report = json.loads(kepler("watts", "--model-server", url, *sources).stdout)
        assert (report["source"]["kind"], report["source"]["name"], report["source"]["version"]) == ("model", own, "1")
        of_store = json.loads(kepler("watts", "-s", store, *sources).stdout)
        assert report["full"] == of_store["full"]
        # with a known idle power, the model for machines with known idle power is used
        report = json.loads(kepler("watts", "--model-server", url, "--idle-watts", "90", *sources).stdout)
        assert report["source"]["name"].startswith("own-idle/")


@pytest.mark.parametrize("stores", ["empty", "none"])
def test_a_model_server_without_models_of_machines_leads_to_the_store(store: Path, tmp_path: Path, stores: str) -> None:
    (tmp_path / "empty").mkdir()
    sources = ("--source", "machine-model", "--source", "formula", "--json")
    with serving(tmp_path / "empty", tmp_path / "log", ready_path="/healthz") as server:
        servers = ("--model-server", f"http://127.0.0.1:{server.port}")
        own = ("-s", store) if stores == "none" else ()
        report = json.loads(kepler("watts", *servers, *own, *sources).stdout)
    if own:
        assert report["source"]["name"].startswith("own/")
    else:
        assert report["source"]["kind"] == "formula"
        (problem,) = report["not_used"]
        assert problem.startswith("machine-model: model server http://127.0.0.1:")
        assert "no model can estimate power from a machine's description: " in problem


def test_a_machine_unlike_the_training_gets_a_wide_interval(store: Path) -> None:
    done = kepler("machines", "estimate", "--processor", "Ampere Altra Q80-30", "--chips", "2", "-s", store, "--json")
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)["estimates"][-1]
    assert row["error_class"] == "outside"
    assert row["upper"] >= 2.49 * row["watts"]
    assert any("outside the range" in reason for reason in row["reasons"])


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--pipeline", "own-idle"), "needs the idle power of the machine"),
        (("--fact", "psu_rating=4"), "did you mean"),
        (("--fact", "l3_mb=nan"), "not a number between"),
    ],
)
def test_a_model_that_cannot_answer_is_reported(store: Path, arguments: tuple[str, ...], problem: str) -> None:
    done = kepler("machines", "estimate", *MACHINE, "-s", store, *arguments)
    assert done.returncode != 0
    assert problem in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.fixture(scope="module")
def public() -> Path:
    if not PUBLIC.exists():
        pytest.skip(f"{PUBLIC} is absent")
    return PUBLIC


@pytest.mark.shared_data
def test_the_shipped_coefficients_are_those_of_the_fit(public: Path) -> None:
    sys.path.insert(0, str(ROOT / "bench"))
    try:
        from machine_formula_run.evaluation import splits
        from machine_formula_run.fitting import fit
    finally:
        sys.path.remove(str(ROOT / "bench"))
    machines = read_machines(public / "spec_power.csv").machines
    fitted = json.loads(indented_json(fit(machines, splits(public / "splits"))))
    shipped = json.loads(COEFFICIENTS.read_bytes())
    for name in ("full", "idle", "full_by_idle", "imputed", "guest_factor"):
        for key, value in _flat(fitted[name]).items():
            assert value == pytest.approx(_flat(shipped[name])[key], abs=2e-4), (name, key)
    assert fitted["classes"] == shipped["classes"]


@pytest.mark.shared_data
def test_the_errors_on_unseen_machines_are_as_documented(public: Path) -> None:
    sys.path.insert(0, str(ROOT / "bench"))
    try:
        from machine_formula_run.evaluation import judge, splits
    finally:
        sys.path.remove(str(ROOT / "bench"))
    machines, folds = read_machines(public / "spec_power.csv").machines, splits(public / "splits")
    figures = {
        split: judge(machines, folds, split, by_idle=False).figures for split in ("group5", "cpumodel5", "newer")
    }
    idle_known = judge(machines, folds, "group5", by_idle=True).figures
    assert figures["group5"]["mape"] <= 16
    assert figures["cpumodel5"]["mape"] <= 16
    assert figures["newer"]["mape"] <= 16
    assert idle_known["mape"] <= 8
    assert 87 <= figures["group5"]["coverage"] <= 93
    assert 87 <= figures["cpumodel5"]["coverage"] <= 93
    assert 87 <= idle_known["coverage"] <= 93


@pytest.mark.shared_data
def test_trees_are_more_accurate_than_the_formula_on_newer_hardware(public: Path) -> None:
    sys.path.insert(0, str(ROOT / "bench"))
    try:
        from machine_formula_run.evaluation import splits
        from machine_formula_run.trees import split_errors
    finally:
        sys.path.remove(str(ROOT / "bench"))
    machines = read_machines(public / "spec_power.csv").machines
    figures = split_errors(machines, splits(public / "splits")["newer"], with_idle=False)
    assert figures["mape"] <= 14.5
    # The intervals get a factor from machines of 2016 to 2018. It is a little too high for machines of 2019 to 2021.
    assert 87 <= figures["coverage"] <= 97


def _flat(value: object, path: str = "") -> dict[str, float]:
    """Return all numbers in a JSON value, by their paths."""
    if isinstance(value, dict):
        return {key: number for name, item in value.items() for key, number in _flat(item, f"{path}/{name}").items()}
    if isinstance(value, list):
        return {key: number for at, item in enumerate(value) for key, number in _flat(item, f"{path}/{at}").items()}
    assert isinstance(value, int | float)
    return {path: value}
