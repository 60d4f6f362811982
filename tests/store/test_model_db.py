"""Tests of `store export --for model-db`."""

from __future__ import annotations

import csv
import filecmp
import json
import re
import subprocess
from pathlib import Path

import pytest
from support.command import kepler
from support.paths import SHARED
from support.small_pipelines import SmallModel, pipeline

from kepler_core.store.local import LocalStore
from kepler_core.store.models import read_models

NODE_TYPES = {0: {"processor": "intel_xeon_a", "cores": 8}, 1: {"processor": "in|tel<b>", "cores": 4}, 2: {}}
PUBLISHER = "some\\|one, ![x](http://x/)"
"""A name that would begin a new table cell and show an image if the special characters of Markdown were not escaped."""
MODELS = (
    SmallModel(mae=3.0),
    SmallModel(trainer="GradientBoostingRegressorTrainer", mae=1.0, weights=None),
    SmallModel(group="CounterOnly", mae=8.0),
    SmallModel(output_type="DynPower", mae=2.0, more={"mape": 50.0}),
    SmallModel(node_type=1, mae=4.0, more={"lineage": {"data": "d", "versions": {"kepler-core": "0.1.0"}}}),
    SmallModel(node_type=2, mae=30.0),
)
METADATA = {
    "name": "made",
    "last_update_time": "2024-08-14 07:12:37",
    "extractor": "DefaultExtractor",
    "abs_trainers": ["SGDRegressorTrainer", "SGDRegressorTrainer"],
    "recordings": [{"recording": "a.json", "node": "n1"}, {"recording": "a.json", "node": "n2"}],
}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with the pipeline `made`."""
    files = {**pipeline(*MODELS, node_types=NODE_TYPES), "metadata.json": json.dumps(METADATA).encode()}
    LocalStore(tmp_path / "store").publish("made", {**files, "profiles/0.json": b"{}", "profiles/2.json": b"{}"})
    return tmp_path / "store"


def export(store: Path, folder: Path, *arguments: str, name: str = "made") -> subprocess.CompletedProcess[str]:
    return kepler("store", "export", name, "-s", store, "--for", "model-db", "-o", folder, *arguments)


def exported_models(folder: Path) -> set[str]:
    return {path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.zip")}


def test_the_folder_has_only_models_within_the_limit(store: Path, tmp_path: Path) -> None:
    done = export(store, tmp_path / "out", "--max-error", "4")
    assert (done.returncode, done.stdout) == (0, "")
    kept = [model for model in MODELS if model.mae <= 4]
    assert exported_models(tmp_path / "out") == {model.path for model in kept}
    for model in kept:
        folder = tmp_path / "out" / model.path
        assert (folder / "metadata.json").is_file()
        weights = folder.parent / f"{model.name}.json"
        assert weights.exists() == (model.weights is not None)
    index = json.loads((tmp_path / "out" / "node_type_index.json").read_text())
    assert index.keys() == {"0", "1"}
    files = {path.name for path in (tmp_path / "out").iterdir()}
    tables = {"rapl-sysfs_AbsPower_model_metadata.csv", "rapl-sysfs_DynPower_model_metadata.csv"}
    assert (
        files
        == {"README.md", "error_report", "metadata.json", "node_type_index.json", "profiles", "rapl-sysfs"} | tables
    )
    assert [path.name for path in (tmp_path / "out" / "profiles").iterdir()] == ["0.json"]
    rows = list(csv.DictReader((tmp_path / "out" / "rapl-sysfs_AbsPower_model_metadata.csv").read_text().splitlines()))
    assert sorted((row["model_name"], row["node_type"], float(row["mae"])) for row in rows) == sorted(
        (model.name, str(model.node_type), model.mae) for model in kept if model.output_type == "AbsPower"
    )


@pytest.mark.parametrize(
    ("limits", "maes"),
    [
        ((), {3, 1, 8, 2, 4, 30}),
        (("2.5",), {1, 2}),
        (("mae:4;mape:30",), {3, 1}),
        (("mae:4", "mape:80"), {3, 1, 2, 4, 8}),
        (("package_mae:3",), {3, 1, 2}),
    ],
)
def test_limits(store: Path, tmp_path: Path, limits: tuple[str, ...], maes: set[int]) -> None:
    arguments = [word for limit in limits for word in ("--max-error", limit)]
    assert export(store, tmp_path / "out", *arguments).returncode == 0
    metadata = (tmp_path / "out" / "rapl-sysfs").rglob("metadata.json")
    assert {json.loads(path.read_text())["mae"] for path in metadata} == maes


def test_the_readme_has_the_origin_and_the_errors(store: Path, tmp_path: Path) -> None:
    arguments = ("--max-error", "4", "--publisher", PUBLISHER, "--collect-date", "2024-07-25")
    assert export(store, tmp_path / "out", *arguments).returncode == 0
    readme = (tmp_path / "out" / "README.md").read_text()
    for line in (
        "| publisher | some\\\\\\|one, !\\[x\\](http://x/) |",
        "| data collected | 2024-07-25 |",
        "| trained | 2024-08-14 07:12:37 |",
        "| trained with | Kepler Core 0.1.0 |",
        "| trained on | recordings: 1, nodes: 2 |",
        "| AbsPower trainers | SGDRegressorTrainer |",
        "| exported | 4 of 6 models, those within mae ≤ 4 |",
        "| 1 | in\\|tel\\<b\\> | 4 | - | - | - | 1 | 1 | [node type 1](error_report/node_type_1.md) |",
    ):
        assert line in readme.splitlines()
    for model in MODELS:
        row = f"| rapl-sysfs | {model.output_type} | {model.group} | {model.name} | {model.mae:.2f} |"
        assert (row in readme) == (model.mae <= 4)
    metadata = json.loads((tmp_path / "out" / "metadata.json").read_text())
    assert (metadata["publisher"], metadata["collect_time"]) == (PUBLISHER, "2024-07-25")


def test_the_date_of_the_data_is_a_date(store: Path, tmp_path: Path) -> None:
    done = export(store, tmp_path / "out", "--collect-date", "last week")
    assert (done.returncode, done.stdout, (tmp_path / "out").exists()) == (2, "", False)
    assert done.stderr.startswith("kepler-model: error: --collect-date: 'last week' is not a date (e.g. 2026-03-01")
    assert export(store, tmp_path / "out", "--collect-date", "2024-07-25T10:00:00Z").returncode == 0


def test_the_message_tells_how_to_create_the_parent_folder(store: Path, tmp_path: Path) -> None:
    done = export(store, tmp_path / "no" / "v 1" / "out")
    parent = tmp_path / "no" / "v 1"
    assert (done.returncode, done.stderr.endswith(f"create it with mkdir -p '{parent}'\n")) == (2, True)


def test_the_pages_link_to_files_and_name_the_best_models(store: Path, tmp_path: Path) -> None:
    assert export(store, tmp_path / "out").returncode == 0
    pages = list((tmp_path / "out").rglob("*.md"))
    assert len(pages) == 4
    for page in pages:
        links = re.findall(r"\]\(([^)]+)\)", page.read_text())
        assert links
        assert all((page.parent / link).is_file() for link in links)
    report = (tmp_path / "out" / "error_report" / "node_type_0.md").read_text()
    weights, best = report.split("## Best of all models")
    assert "BPFOnly | SGDRegressorTrainer_0 | 3.00" in weights
    assert "BPFOnly | GradientBoostingRegressorTrainer_0 | 1.00" in best
    assert "AbsPower | BPFOnly | SGDRegressorTrainer_0" not in best


def test_an_export_can_be_imported_and_exported_again(store: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert export(store, tmp_path / name, "--max-error", "4", "--publisher", "me").returncode == 0
    files = [path.relative_to(tmp_path / "one").as_posix() for path in (tmp_path / "one").rglob("*") if path.is_file()]
    assert filecmp.cmpfiles(tmp_path / "one", tmp_path / "two", files, shallow=False)[1:] == ([], [])
    imported = tmp_path / "imported"
    assert kepler("store", "import", tmp_path / "one", "-s", imported).returncode == 0
    assert kepler("store", "verify", "-s", imported).returncode == 0
    models = {model.path: model for model in read_models(LocalStore(imported).snapshot("made"))}
    stored = {model.path: model for model in read_models(LocalStore(store).snapshot("made"))}
    assert models.keys() == exported_models(tmp_path / "one")
    for path, model in models.items():
        assert model.metadata == stored[path].metadata
        assert (model.weights is None) == (stored[path].weights is None)
    assert export(imported, tmp_path / "again").returncode == 0
    different = filecmp.cmpfiles(tmp_path / "one", tmp_path / "again", files, shallow=False)[1:]
    assert different == (["README.md"], []), "only the number of the models that were left out differs"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--max-error", "0.5"), 1, "none of 6 models is within mae ≤ 0.5; the lowest MAE is 1.00 W"),
        (("--max-error", "mea:1"), 2, "did you mean mae"),
        (("--max-error", "r2:0.5"), 2, "--max-error r2:0.5: expected watts"),
        (("--max-error", "features:cpu_cycles"), 2, "expected watts"),
        (("--max-error", "nan"), 2, "an error is at least 0"),
        (("--max-error", "-1"), 2, "an error is at least 0"),
        (("--max-error", "small"), 2, "is not attribute:number"),
        (("--version", "7"), 1, "no version 7"),
    ],
)
def test_wrong_limits_are_one_line(
    store: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    done = export(store, tmp_path / "out", *arguments)
    assert (done.returncode, len(done.stderr.splitlines())) == (code, 1)
    assert message in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]


def test_force_replaces_an_export_and_nothing_else(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert export(store, out).returncode == 0
    assert "already exists; --force replaces it" in export(store, out).stderr
    assert export(store, out, "--max-error", "1", "--force").returncode == 0
    assert exported_models(out) == {MODELS[1].path}
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("mine")
    done = export(store, tmp_path / "home", "--force")
    assert (done.returncode, "is not the folder of an exported pipeline" in done.stderr) == (2, True)
    (tmp_path / "home" / "metadata.json").write_text("{}")
    assert export(store, tmp_path / "home", "--force").returncode == 2
    assert (tmp_path / "home" / "thesis.txt").exists()
    (tmp_path / "link").symlink_to(out)
    assert export(store, tmp_path / "link", "--force").returncode == 2
    assert export(store, tmp_path / "no" / "out").returncode == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "link", "out", "store"]


def test_the_options_go_with_the_form(store: Path, tmp_path: Path) -> None:
    for option in ("--max-error", "--publisher", "--collect-date"):
        done = kepler("store", "export", "made", "-s", store, "-o", tmp_path / "x.zip", option, "1")
        assert (done.returncode, "are only for exports with --for model-db" in done.stderr) == (2, True)
    assert not (tmp_path / "x.zip").exists()


@pytest.mark.shared_data
def test_a_pipeline_of_the_public_database(tmp_path: Path) -> None:
    public = SHARED / "data" / "model_db"
    if not public.is_dir():
        pytest.skip("no public model database")
    limits = ("--max-error", "mae:10", "--max-error", "mape:20")
    assert export(public, tmp_path / "out", *limits, name="ec2-0.7.11").returncode == 0
    names = exported_models(tmp_path / "out")
    assert 31 < len(names) <= 61
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "| publisher | sunya-ch |" in readme
    assert "| data collected | 2024-07-25 21:05:43 |" in readme
    assert "| 0 | intel_xeon_platinum_8259cl | 96 | 2 | 377 | 3500 | 1 |" in readme
    assert kepler("store", "import", tmp_path / "out", "-s", tmp_path / "store").returncode == 0
    assert {model.path for model in read_models(LocalStore(tmp_path / "store").snapshot("ec2-0.7.11"))} == names
    for name in names:
        assert (tmp_path / "out" / f"{name}.zip").read_bytes() == (public / "ec2-0.7.11" / f"{name}.zip").read_bytes()
