"""Tests of a trainer from a third-party distribution, and of its models, which load without the trainer."""

from __future__ import annotations

import json

from support.plugin_wheels import kepler_process, run_python


def test_the_example_is_listed_with_its_distribution_and_version(ridge_site, tmp_path):
    entries = json.loads(kepler_process("plugins", "list", "--json", sites=(ridge_site,), cwd=tmp_path).stdout)
    (entry,) = [entry for entry in entries if entry["distribution"] == "kepler-trainer-ridge"]
    assert entry["namespace"] == "kepler.trainers"
    assert entry["name"] == "RidgeRegressorTrainer"
    assert entry["aliases"] == ["ridge"]
    assert entry["version"] == "1.0.0"
    table = kepler_process("plugins", "list", "--namespace", "trainers", sites=(ridge_site,), cwd=tmp_path).stdout
    (line,) = [line for line in table.splitlines() if "RidgeRegressorTrainer" in line]
    assert line.split() == ["trainers", "RidgeRegressorTrainer", "ridge", "kepler-trainer-ridge", "1.0.0", "ok"]


def test_the_example_is_not_listed_where_it_is_not_installed(tmp_path):
    table = kepler_process("plugins", "list", cwd=tmp_path).stdout
    assert "LinearRegressionTrainer" in table
    assert "Ridge" not in table


def test_the_example_is_described(ridge_site, tmp_path):
    description = kepler_process("plugins", "info", "ridge", sites=(ridge_site,), cwd=tmp_path).stdout
    assert "from kepler-trainer-ridge 1.0.0" in description
    assert "also called ridge" in description
    (line,) = [line for line in description.splitlines() if line.startswith("alpha")]
    assert line.split() == ["alpha", "float", "1.0"]


def test_a_pipeline_that_names_the_example_trains(ridge_trained):
    store, report = ridge_trained
    assert report["failed"] == []
    names = {(model["output_type"], model["trainer"]) for model in report["models"]}
    assert names == {
        ("AbsPower", "RidgeRegressorTrainer"),
        ("AbsPower", "SGDRegressorTrainer"),
        ("AbsPower", "LinearRegressionTrainer"),
        ("DynPower", "RidgeRegressorTrainer"),
    }
    model = next(m for m in report["models"] if m["trainer"] == "RidgeRegressorTrainer")
    assert model["mae"] < 0.7 * model["baselines"]["platform"]["constant_mae"]
    (path,) = store.glob("mine/acpi/AbsPower/CounterOnly/RidgeRegressorTrainer_0/metadata.json")
    metadata = json.loads(path.read_text())
    assert metadata["trainer"] == "RidgeRegressorTrainer"
    assert metadata["arguments"] == {"alpha": 0.5}
    assert metadata["lineage"]["versions"]["kepler-trainer-ridge"] == "1.0.0"


def test_its_model_loads_and_predicts_without_the_plugin(ridge_trained, tmp_path):
    store, _ = ridge_trained
    (path,) = store.glob("mine/acpi/AbsPower/CounterOnly/RidgeRegressorTrainer_0/model.json")
    code = """if True:
        import importlib.util, json, sys
        from kepler_core.models.loading import load_model
        model = load_model(sys.argv[1])
        watts = model.predict([[0, 0, 0], [1e8, 5e10, 7e10]], ["cache_miss", "cpu_cycles", "cpu_instructions"])
        print(json.dumps({"watts": watts["platform"].tolist(), "sklearn": "sklearn" in sys.modules,
                          "plugin": importlib.util.find_spec("kepler_trainer_ridge") is not None}))
    """
    outcome = json.loads(run_python("-c", code, path.parent, cwd=tmp_path).stdout)
    assert outcome["plugin"] is False
    assert outcome["sklearn"] is False
    idle, busy = outcome["watts"]
    assert 50 < idle < busy < 400


def test_its_model_is_selected_by_the_trainers_name_without_the_plugin(ridge_trained, recording, tmp_path):
    store, _ = ridge_trained
    done = kepler_process(
        *("estimate", "--store", store, "--input", recording, "--source", "acpi"),
        *("--trainer", "RidgeRegressorTrainer", "--json"),
        cwd=tmp_path,
    )
    summary = json.loads(done.stdout)
    assert summary["model_name"] == "RidgeRegressorTrainer_0"
    platform = summary["components"]["platform"]
    assert platform["mae"] < 0.2 * platform["measured_mean"]
