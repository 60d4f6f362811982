"""Tests of third-party distributions, which pip installs from wheels into fresh environments.

- The tests that belong to a distribution pass in such an environment: for the examples, for the distributions that
  the documentation shows, and for the distributions that `plugins new` writes.
- A trainer's models are served after the trainer was removed.
- Broken distributions do not harm other distributions.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path

import pytest
from support.plugin_site import (
    EXAMPLES,
    ROOT,
    ask_estimator,
    ask_model_server,
    build_wheels,
    copy_of,
    copy_of_project,
    free_port,
    make_site,
)

from kepler_core.cli.plugin_new import KINDS, distribution_files
from kepler_core.simulate import Simulation, write

GOOD = ("kepler-exporter-scaphandre", "kepler-hook-webhook", "kepler-trainer-lightgbm", "kepler-trainer-ridge")
BROKEN = sorted(path.name for path in (EXAMPLES / "broken").iterdir() if path.is_dir())
DOCS = ROOT / "docs" / "plugins"
PAGES = sorted(path.name for path in DOCS.glob("*.md") if "`pyproject.toml`:" in path.read_text())
NEW = "some-demo"
"""Argument NAME of `plugins new`. It becomes the end of the names of the distributions that this command writes."""

PIPELINE = """
energy_sources: [kepler-core:acpi]
feature_groups: [BPFOnly]
validation: {folds: 2}
"""
BPF = ("bpf_cpu_time_ms", "bpf_page_cache_hit")


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    return tmp_path_factory.mktemp("workshop")


@pytest.fixture(scope="module")
def wheels(workshop):
    """Return the wheel of each distribution, by name of the distribution.

    The distributions are kepler-core, the examples, the documentation's examples, and the plugins that `plugins new`
    creates.
    """
    sources = workshop / "sources"
    sources.mkdir()
    folders = [copy_of_project(sources / "project")]
    folders += [copy_of(EXAMPLES / name, sources) for name in GOOD]
    folders += [copy_of(EXAMPLES / "broken" / name, sources) for name in BROKEN]
    for page in PAGES:
        folders.append(written(files_of(page), sources / Path(page).stem))
    for kind in KINDS:
        folders.append(written(distribution_files(kind, NEW), sources / f"kepler-{kind}-{NEW}"))
    wheels = build_wheels(folders, workshop / "wheels")
    assert len(wheels) == len(folders)
    return wheels


@pytest.fixture(scope="module")
def recording(workshop):
    path = workshop / "recording.json.gz"
    write(Simulation(containers=4, timestamps=100, seed=3), str(path))
    return path


def files_of(page):
    """Return the contents of the files that a documentation page shows in full, by file name.

    The page shows a file as its name in backquotes, a colon, and a code block with the content.
    """
    text = (DOCS / page).read_text()
    return dict(re.findall(r"^`([\w./-]+\.\w+)`:\n\n```\w+\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL))


def written(files, folder):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def request(source, output_type="AbsPower", trainer=""):
    return {
        "metrics": list(BPF),
        "values": [[100.0, 10.0], [9000.0, 4000.0]],
        "output_type": output_type,
        "source": source,
        "system_features": [],
        "system_values": [],
        "trainer_name": trainer,
        "filter": "",
    }


# --- distributions without errors -----------------------------------------------------------------


@pytest.fixture(scope="module")
def good_environment(workshop, wheels):
    """A Python environment with all good distributions except the LightGBM trainer, which a later test installs."""
    broken = {*BROKEN, "kepler-trainer-lightgbm"}
    return make_site(workshop / "good", [path for name, path in wheels.items() if name not in broken])


def test_every_contract_has_a_page_with_an_example():
    groups = re.findall(
        r'^\[project.entry-points."(kepler\.\w+)"\]',
        "".join(files_of(page)["pyproject.toml"] for page in PAGES),
        re.MULTILINE,
    )
    assert sorted({group for group in groups if group != "kepler.plugin_api"}) == [
        "kepler.energy_sources",
        "kepler.extractors",
        "kepler.hooks",
        "kepler.isolators",
        "kepler.metric_schemas",
        "kepler.model_formats",
        "kepler.trainers",
    ]


def test_their_own_tests_pass(good_environment, workshop):
    sources = workshop / "sources"
    folders = [
        *(f"{name}/tests" for name in GOOD if name != "kepler-trainer-lightgbm"),
        *(f"{Path(page).stem}/{name}" for page in PAGES for name in files_of(page) if name.startswith("test_")),
        *(f"kepler-{kind}-{NEW}/tests" for kind in KINDS),
    ]
    (sources / "pytest.ini").write_text("[pytest]\n")
    # -P: import the installed modules, not modules in the current folder
    options = ("-q", "-rA", "-p", "no:cacheprovider", "--import-mode=importlib")
    done = good_environment.run("-P", "-m", "pytest", *options, *folders, cwd=sources)
    passed = [line for line in done.stdout.splitlines() if line.startswith("PASSED")]
    for folder in folders:
        assert any(f" {folder}" in line for line in passed), folder
    assert re.search(r"^(\d+) passed in", done.stdout, re.MULTILINE), done.stdout[-500:]


def test_the_doctor_finds_nothing_wrong_with_them(good_environment, tmp_path):
    names = [f"kepler-{kind}-{NEW}" for kind in KINDS if kind != "trainer"]
    done = good_environment.kepler(
        "plugins", "doctor", "--strict", "--json", *names, "kepler-hook-webhook", cwd=tmp_path
    )
    report = json.loads(done.stdout)
    assert report["checked"] == len(names) + 1
    assert (report["problems"], report["warnings"]) == ([], [])


# --- models whose trainer was uninstalled ---------------------------------------------------------


def test_models_are_served_after_their_trainer_was_removed(workshop, wheels, recording, tmp_path):
    site = make_site(workshop / "lightgbm", [wheels["kepler-core"], wheels["kepler-trainer-lightgbm"]])
    pipeline = tmp_path / "mine.yaml"
    pipeline.write_text(PIPELINE + "abs_trainers: [lightgbm]\n")
    command = ("train", pipeline, "--input", recording, "--store", "../models", "--json")
    inner = tmp_path / "inner"
    inner.mkdir()
    report = json.loads(site.kepler(*command, cwd=inner).stdout)
    assert [model["trainer"] for model in report["models"]] == ["LightGBMRegressorTrainer"]

    store = tmp_path / "models"
    frozen = ("plugins", "freeze", "mine", "--store", store)
    assert "kepler-trainer-lightgbm==1.0.0" in site.kepler(*frozen, cwd=tmp_path).stdout.splitlines()
    answers = served(site, store, tmp_path)
    site.pip("uninstall", "--yes", "kepler-trainer-lightgbm")
    assert "lightgbm" not in site.kepler("plugins", "list", cwd=tmp_path).stdout
    assert served(site, store, tmp_path) == answers

    error = json.loads(site.kepler(*command, cwd=inner, check=1).stderr)["error"]
    assert "unknown trainer 'lightgbm'" in error
    assert error.endswith("from kepler-trainer-lightgbm 1.0.0: pip install kepler-trainer-lightgbm==1.0.0")
    assert len(error.splitlines()) == 1
    assert "kepler-trainer-lightgbm==1.0.0" in site.kepler(*frozen, cwd=tmp_path).stdout.splitlines()


def served(site, store, folder):
    """Return the files in the zip that a model server serves, and the reply of an estimator that uses this server."""
    port, path = free_port(), folder / "estimator.sock"
    model_request = request("acpi", trainer="LightGBMRegressorTrainer")
    where = ("--host", "127.0.0.1", "--port", port)
    with (
        site.serving("model-server", "-s", store, *where, log=folder / "server.log") as server,
        site.serving(
            *("estimator", "--model-server", f"http://127.0.0.1:{port}", "--socket", path), log=folder / "estimator.log"
        ) as estimator,
    ):
        content = ask_model_server(port, model_request, server)
        reply = ask_estimator(path, model_request, estimator)
    assert not reply["msg"], reply
    idle, busy = reply["powers"]["platform"]
    assert 0 < idle < busy
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.namelist(), reply


# --- broken distributions -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def broken_environment(workshop, wheels):
    """A Python environment with all broken distributions, kepler-core and the ridge trainer."""
    good = ("kepler-core", "kepler-trainer-ridge")
    return make_site(workshop / "broken-site", [wheels[name] for name in (*good, *BROKEN)])


def test_list_shows_the_broken_ones_and_imports_none(broken_environment, tmp_path):
    done = broken_environment.kepler("plugins", "list", "--json", cwd=tmp_path)
    assert done.stderr == ""
    status = {f"{entry['distribution']}:{entry['name']}": entry["status"] for entry in json.loads(done.stdout)}
    # "ok", because `list` imports no plugin: an import of kepler-broken-exit would have ended the command
    assert status["kepler-broken-exit:BrokenExitTrainer"] == "ok"
    assert status["kepler-trainer-ridge:RidgeRegressorTrainer"] == "ok"
    assert "written for plugin API 99.0" in status["kepler-broken-api:BrokenApiTrainer"]
    assert "clashes with kepler-core:LinearRegressionTrainer" in status["kepler-broken-clash:LinearRegressionTrainer"]


def test_doctor_reports_the_problem_of_each(broken_environment, tmp_path):
    done = broken_environment.kepler("plugins", "doctor", "--json", "--slow", "2", *BROKEN, cwd=tmp_path, check=3)
    report = json.loads(done.stdout)
    problems = {}
    for problem in report["problems"]:
        problems.setdefault(problem["plugin"], []).append(problem["problem"])
    reasons = {
        "kepler-broken-api:BrokenApiTrainer": "written for plugin API 99.0",
        "kepler-broken-base:BrokenBaseIsolator": "not a class that derives from kepler_core.contracts.Isolator",
        "kepler-broken-exit:BrokenExitTrainer": "ends the process that imports it (exit code 7)",
        "kepler-broken-fit:BrokenFitTrainer": "the matrix is not to my liking (14 checks: ",
        "kepler-broken-fit:BrokenProcessTrainer": "ends the process that checks it (exit code 9)",
        "kepler-broken-import:BrokenImportTrainer": "No module named 'a_module_that_nobody_has'",
        "kepler-broken-schema:broken-schema": "mappings('') raises LookupError",
        "LinearRegressionTrainer": "kepler-core:LinearRegressionTrainer",
        "acpi": "kepler-broken-clash:acpi",
    }
    assert set(problems) == set(reasons)
    for plugin, reason in reasons.items():
        assert any(reason in problem for problem in problems[plugin]), problems[plugin]
    (warning,) = report["warnings"]
    assert warning["plugin"] == "kepler-broken-slow:BrokenSlowTrainer"
    assert "slow: importing it takes 3" in warning["problem"]


def test_good_plugins_train_and_serve_beside_broken_ones(broken_environment, recording, tmp_path):
    pipeline = tmp_path / "mine.yaml"
    pipeline.write_text(PIPELINE + "abs_trainers: [BrokenFitTrainer, BrokenProcessTrainer, ridge]\n")
    store = tmp_path / "models"
    command = ("train", pipeline, "--input", recording, "--store", store, "--json", "--trace-hooks")
    # --jobs 1 and --jobs 2 run different code, which passes the models to the processes that fit them.
    for jobs in (1, 2):
        done = broken_environment.kepler(*command, "--jobs", jobs, cwd=tmp_path, check=3)
        report = json.loads(done.stdout)
        assert [model["trainer"] for model in report["models"]] == ["RidgeRegressorTrainer"]
        failed = {failure["trainer"]: failure["reason"] for failure in report["failed"]}
        assert failed == {
            "BrokenFitTrainer": "RuntimeError: the matrix is not to my liking",
            "BrokenProcessTrainer": "it ended the process in which it was fitted",
        }
    assert "metric schema kepler-broken-schema:broken-schema: mappings(" in done.stderr
    assert "hook kepler-broken-hook:ill: kepler_dataset_ready failed: RuntimeError: raised on purpose" in done.stderr
    traced = [line for line in done.stderr.splitlines() if re.match(r" +\d+\.\d+ s  kepler_", line)]
    assert any("kepler_publishing" in line and "kepler-core:profiler" in line for line in traced)
    (failing,) = [line for line in traced if "kepler_dataset_ready" in line]
    assert re.search(r"kepler-broken-hook:ill +\d+\.\d\d ms  failed: RuntimeError: raised on purpose$", failing)

    port, path = free_port(), tmp_path / "estimator.sock"
    server_log, estimator_log = tmp_path / "server.log", tmp_path / "estimator.log"
    where = ("--host", "127.0.0.1", "--port", port)
    with (
        broken_environment.serving("model-server", "-s", store, *where, log=server_log) as server,
        broken_environment.serving("estimator", "-s", store, "--socket", path, log=estimator_log) as estimator,
    ):
        assert ask_model_server(port, request("acpi"), server)[:2] == b"PK"
        reply = ask_estimator(path, request("acpi"), estimator)
        assert not reply["msg"], reply
    for log in (server_log, estimator_log):
        lines = log.read_text()
        assert "hook kepler-broken-hook:ill: kepler_model_selected failed: RuntimeError: raised on purpose" in lines


@pytest.mark.parametrize(
    ("key", "name", "message"),
    [
        ("abs_trainers", "BrokenApiTrainer", "kepler-broken-api 1.0.0): was written for plugin API 99.0"),
        ("isolator", "BrokenBaseIsolator", "kepler-broken-base 1.0.0): breaks its contract"),
    ],
)  # fmt: skip
def test_the_error_of_a_pipeline_with_a_broken_plugin_is_one_line(
    broken_environment, recording, tmp_path, key, name, message
):
    pipeline = tmp_path / "mine.yaml"
    pipeline.write_text(PIPELINE + (f"abs_trainers: [{name}]\n" if key == "abs_trainers" else f"{key}: {name}\n"))
    done = broken_environment.kepler("train", pipeline, "-i", recording, "-s", "models", cwd=tmp_path, check=1)
    (line,) = done.stderr.strip().splitlines()
    assert message in line
    assert not (tmp_path / "models").exists()
