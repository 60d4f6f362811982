"""Plugins of other distributions, installed by pip: a good one, and all kinds of broken ones.

Programs run in processes of their own, with the folder that pip installed into on their path: what
they see is the metadata that pip wrote.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile

import pytest
from support.paths import ROOT

from kepler_core.simulate import Simulation, write

EXAMPLE = ROOT / "examples" / "kepler-trainer-ridge"

PIPELINE = """
energy_sources: [acpi]
feature_groups: [CounterOnly]
validation: {folds: 2}
"""


def run(arguments, *sites, marks=None, cwd=None, check=None):
    """Run Python with the sites on its path."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sites))}
    if marks is not None:
        marks.mkdir(exist_ok=True)
        environment["PLUGIN_TEST_MARKS"] = str(marks)
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, env=environment, cwd=cwd, check=False
    )
    if check is not None:
        assert done.returncode == check, done.stdout + done.stderr
    return done


def kepler(*arguments, sites=(), marks=None, cwd, check=0):
    return run(["-m", "kepler_core", *arguments], *sites, marks=marks, cwd=cwd, check=check)


def one_line(done):
    """The one line of an error: no traceback, nothing before it."""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


def pip(*arguments):
    run(["-m", "pip", "--disable-pip-version-check", "--quiet", *arguments], check=0)


def install(site, *wheels):
    pip("install", "--no-deps", "--no-index", "--target", site, *wheels)
    return site


# --- small generated distributions ----------------------------------------------------------------

MARK = """
import os, pathlib
def mark(name, text=""):
    if "PLUGIN_TEST_MARKS" in os.environ:
        with open(pathlib.Path(os.environ["PLUGIN_TEST_MARKS"]) / name, "a") as file:
            file.write(text + "\\n")
mark(__name__)
"""

CONTRACT = "from kepler_core.contracts import Trainer\n"

# Importing scikit-learn is most of what these tests take: only where something is fitted.
SKLEARN = """
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.linear_model import LinearRegression
"""


def wheel(folder, distribution, source, entry_points, version="2.0"):
    """A wheel of one module: what a build would have made of such a project."""
    module = distribution.lower().replace("-", "_").replace(".", "_")
    info = f"{module}-{version}.dist-info"
    groups = "".join(
        f"[{group}]\n" + "".join(f"{name} = {module}{target}\n" for name, target in names.items())
        for group, names in entry_points.items()
    )
    files = {
        f"{module}.py": MARK + source,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": groups,
    }
    path = folder / f"{module}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"]))
    return path


def trainer_wheel(folder, distribution, name, source, **more):
    return wheel(folder, distribution, source, {"kepler.trainers": {name: f":{name}"}}, **more)


def hook_wheel(folder, distribution, source, target=""):
    return wheel(
        folder,
        distribution,
        "from kepler_core.plugins.hooks import hookimpl\n" + source,
        {"kepler.hooks": {"hooks": target}},
    )


BROKEN_TRAINERS = {
    # distribution: (name, source, what doctor says)
    "bad-import": ("BadImportTrainer", "import a_module_that_nobody_has", "No module named 'a_module_that_nobody_has'"),
    "bad-attribute": ("NotThereTrainer", "", "NotThereTrainer"),
    "bad-exit": ("ExitAtImportTrainer", "import sys\nsys.exit('good bye')", "SystemExit: good bye"),
    "bad-base": ("NoTrainer", "class NoTrainer:\n    def regressor(self, task): ...", "kepler_core.contracts.Trainer"),
    "bad-object": ("NoClassTrainer", "NoClassTrainer = 5", "5 is not a class"),
    "bad-abstract": (
        "AbstractTrainer",
        CONTRACT + "class AbstractTrainer(Trainer): ...",
        "regressor not implemented",
    ),
}

# An odd spelling, so that what is to be written is not what one would guess.
CLASHING = "Kepler_Clash.Ing"
CLASHING_FULL = "kepler-clash-ing:LinearRegressionTrainer"
CLASH = (
    CONTRACT
    + SKLEARN
    + """
class LinearRegressionTrainer(Trainer):
    def regressor(self, task):
        return LinearRegression(positive=False)
"""
)

FAILING = (
    CONTRACT
    + SKLEARN
    + """
import sys

class Raises(RegressorMixin, BaseEstimator):
    def fit(self, X, y):
        raise RuntimeError("the matrix\\nis not to my liking")
    def predict(self, X):
        return X[:, 0]

class RaisingTrainer(Trainer):
    def regressor(self, task):
        return Raises()

class Exits(Raises):
    def fit(self, X, y):
        sys.exit("enough")

class ExitingTrainer(Trainer):
    def regressor(self, task):
        return Exits()

class Overwrites(LinearRegression):
    def fit(self, X, y):
        X *= 0
        y -= y.mean()
        return super().fit(X, y)

class OverwritingTrainer(Trainer):
    def regressor(self, task):
        return Overwrites()

class NothingTrainer(Trainer):
    def regressor(self, task):
        return None

class NaNs(Raises):
    def fit(self, X, y):
        return self
    def predict(self, X):
        return X[:, 0] * float("nan")

class NaNTrainer(Trainer):
    def regressor(self, task):
        return NaNs()
"""
)
FAILING_NAMES = ("RaisingTrainer", "ExitingTrainer", "OverwritingTrainer", "NothingTrainer", "NaNTrainer")

ALIAS_CLASH = """
from kepler_core.contracts import Isolator
class OtherIsolator(Isolator):
    def isolate(self, dataset, context):
        return dataset
"""

UNMAKEABLE = (
    CONTRACT
    + """
import sys

class UnmakeableTrainer(Trainer):
    def __init__(self, table: str = "t"):
        raise LookupError(f"no table {table}")
    def regressor(self, task): ...

class LightTrainer(Trainer):
    def regressor(self, task): ...

class ExitsWhenMadeTrainer(Trainer):
    def __init__(self):
        sys.exit(0)
    def regressor(self, task): ...
"""
)

GOOD_HOOK = """
@hookimpl
def kepler_model_trained(model):
    mark("heard", model["trainer"] + (" failed" if "reason" in model else ""))

@hookimpl
def kepler_model_published(pipeline, version):
    mark("heard", f"published {pipeline} {version}")
"""
RAISING_HOOK = """
@hookimpl
def kepler_model_trained(model):
    raise RuntimeError("this listener is ill")

@hookimpl
def kepler_dataset_ready(dataset):
    raise ValueError("ill again")
"""

BROKEN_HOOKS = {
    "badhook-import": ("import a_module_that_nobody_has", "a_module_that_nobody_has"),
    "badhook-exit": ("import sys\nsys.exit(7)", "SystemExit: 7"),
    "badhook-signature": (
        "@hookimpl\ndef kepler_model_trained(model, mood): ...",
        "mood",
    ),
}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    return tmp_path_factory.mktemp("workshop")


@pytest.fixture(scope="module")
def recording(workshop):
    path = workshop / "recording.json.gz"
    write(Simulation(containers=4, timestamps=80, seed=3), str(path))
    return path


@pytest.fixture(scope="module")
def ridge_site(workshop):
    """The example, built and installed as its user would (from a copy: a build leaves files)."""
    source = workshop / "example"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", workshop / "wheels", source)
    (built,) = (workshop / "wheels").iterdir()
    return install(workshop / "ridge", built)


@pytest.fixture(scope="module")
def bad_site(workshop):
    """Everything that is broken, in one place, beside what works."""
    folder = workshop / "bad-wheels"
    folder.mkdir()
    wheels = [trainer_wheel(folder, dist, name, source) for dist, (name, source, _) in BROKEN_TRAINERS.items()]
    wheels.append(trainer_wheel(folder, CLASHING, "LinearRegressionTrainer", CLASH, version="3.1"))
    wheels.append(wheel(folder, "bad-fit", FAILING, {"kepler.trainers": {name: f":{name}" for name in FAILING_NAMES}}))
    wheels += [hook_wheel(folder, dist, source) for dist, (source, _) in BROKEN_HOOKS.items()]
    wheels.append(hook_wheel(folder, "badhook-raises", RAISING_HOOK))
    wheels.append(hook_wheel(folder, "a-good-hook", GOOD_HOOK))
    wheels.append(hook_wheel(folder, "z-good-hook", GOOD_HOOK))
    return install(workshop / "bad", *wheels)


def pipeline(folder, trainers, text=PIPELINE):
    path = folder / "mine.yaml"
    path.write_text(text + f"abs_trainers: [{', '.join(trainers)}]\n")
    return path


def train(folder, trainers, recording, *, sites, marks=None, check=0, jobs=1, text=PIPELINE, backend="loky"):
    path = pipeline(folder, trainers, text)
    done = kepler(
        *("train", path, "--input", recording, "--store", folder / "store", "--json"),
        *("--jobs", jobs, "--backend", backend),
        sites=sites,
        marks=marks,
        cwd=folder,
        check=check,
    )
    return (json.loads(done.stdout) if done.returncode in (0, 3) else None), done


CHECK = """
import json, sys
from kepler_core.errors import KeplerError
from kepler_core.pipeline.load import pipeline_from
said = []
for document in json.loads(sys.argv[1]):
    try:
        spec = pipeline_from({"name": "mine", "abs_trainers": [], **document}, "mine.yaml")
        said.append("isolator " + spec.isolator.name)
    except KeplerError as error:
        said.append(str(error))
    except BaseException as error:
        said.append("not for users: " + repr(error))
print(json.dumps(said))
"""


def checked(documents, *sites, cwd):
    """What is said of each pipeline, all in one process (the command line prints these very lines)."""
    done = run(["-c", CHECK, json.dumps(list(documents.values()))], *sites, cwd=cwd, check=0)
    return dict(zip(documents, json.loads(done.stdout), strict=True))


# --- the example ----------------------------------------------------------------------------------


def test_the_example_is_listed_with_its_distribution_and_version(ridge_site, tmp_path):
    entries = json.loads(kepler("plugins", "list", "--json", sites=[ridge_site], cwd=tmp_path).stdout)
    (entry,) = [entry for entry in entries if entry["distribution"] == "kepler-trainer-ridge"]
    assert entry["namespace"] == "kepler.trainers"
    assert entry["name"] == "RidgeRegressorTrainer"
    assert entry["aliases"] == ["ridge"]
    assert entry["version"] == "1.0.0"
    table = kepler("plugins", "list", "--namespace", "trainers", sites=[ridge_site], cwd=tmp_path).stdout
    (line,) = [line for line in table.splitlines() if "RidgeRegressorTrainer" in line]
    assert line.split() == ["trainers", "RidgeRegressorTrainer", "ridge", "kepler-trainer-ridge", "1.0.0", "ok"]
    without = kepler("plugins", "list", cwd=tmp_path).stdout
    assert "LinearRegressionTrainer" in without
    assert "Ridge" not in without


def test_the_example_is_described(ridge_site, tmp_path):
    said = kepler("plugins", "info", "ridge", sites=[ridge_site], cwd=tmp_path).stdout
    assert "from kepler-trainer-ridge 1.0.0" in said
    assert "also called ridge" in said
    (line,) = [line for line in said.splitlines() if line.startswith("alpha")]
    assert line.split() == ["alpha", "float", "1.0"]


@pytest.fixture(scope="module")
def ridge_trained(ridge_site, workshop, recording):
    folder = workshop / "trained"
    folder.mkdir()
    text = PIPELINE + "dyn_trainers: [ridge]\n"
    trainers = ["{name: ridge, args: {alpha: 0.5}}", "SGDRegressorTrainer", "LinearRegressionTrainer"]
    report, _ = train(folder, trainers, recording, sites=[ridge_site], text=text)
    return folder / "store", report


@pytest.fixture(scope="module")
def reference(ridge_trained):
    """What is said of the built-in trainers' models where nothing is broken."""
    return {model["trainer"]: model for model in ridge_trained[1]["models"] if model["output_type"] == "AbsPower"}


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
    (metadata,) = store.glob("mine/acpi/AbsPower/CounterOnly/RidgeRegressorTrainer_0/metadata.json")
    found = json.loads(metadata.read_text())
    assert found["trainer"] == "RidgeRegressorTrainer"
    assert found["arguments"] == {"alpha": 0.5}
    assert found["lineage"]["versions"]["kepler-trainer-ridge"] == "1.0.0"


def test_its_model_loads_and_predicts_without_the_plugin(ridge_trained, tmp_path):
    store, _ = ridge_trained
    (model,) = store.glob("mine/acpi/AbsPower/CounterOnly/RidgeRegressorTrainer_0/model.json")
    code = """if True:
        import importlib.util, json, sys
        from kepler_core.models.loading import load_model
        model = load_model(sys.argv[1])
        watts = model.predict([[0, 0, 0], [1e8, 5e10, 7e10]], ["cache_miss", "cpu_cycles", "cpu_instructions"])
        print(json.dumps({"watts": watts["platform"].tolist(), "sklearn": "sklearn" in sys.modules,
                          "plugin": importlib.util.find_spec("kepler_trainer_ridge") is not None}))
    """
    found = json.loads(run(["-c", code, model.parent], cwd=tmp_path, check=0).stdout)
    assert found["plugin"] is False
    assert found["sklearn"] is False
    idle, busy = found["watts"]
    assert 50 < idle < busy < 400


def test_its_model_is_chosen_by_name_without_the_plugin(ridge_trained, recording, tmp_path):
    # the store holds models of this trainer; that nobody could train one here does not matter
    store, _ = ridge_trained
    done = kepler(
        *("estimate", "--store", store, "--input", recording, "--source", "acpi"),
        *("--trainer", "RidgeRegressorTrainer", "--json"),
        cwd=tmp_path,
    )
    summary = json.loads(done.stdout)
    assert summary["model_name"] == "RidgeRegressorTrainer_0"
    platform = summary["components"]["platform"]
    assert platform["mae"] < 0.2 * platform["measured_mean"]


# --- broken distributions: listing and diagnosis --------------------------------------------------


def modules(marks):
    return {entry.name for entry in marks.iterdir()}


def test_list_shows_all_and_imports_none(bad_site, ridge_site, tmp_path):
    marks = tmp_path / "marks"
    done = kepler("plugins", "list", "--json", sites=[bad_site, ridge_site], marks=marks, cwd=tmp_path)
    assert done.stderr == ""
    listed = {(e["distribution"], e["name"], e["version"]) for e in json.loads(done.stdout)}
    assert listed >= {(dist, name, "2.0") for dist, (name, *_) in BROKEN_TRAINERS.items()}
    assert listed >= {("bad-fit", name, "2.0") for name in FAILING_NAMES}
    assert ("kepler-clash-ing", "LinearRegressionTrainer", "3.1") in listed
    assert ("kepler-trainer-ridge", "RidgeRegressorTrainer", "1.0.0") in listed
    assert {name for dist, name, _ in listed if dist == "kepler-core"} >= {"LinearRegressionTrainer", "weights"}
    assert modules(marks) == set()


def test_doctor_names_each_with_distribution_and_reason(bad_site, ridge_site, tmp_path):
    marks = tmp_path / "marks"
    done = kepler(
        *("plugins", "doctor", "--json", "--no-checks", *BROKEN_TRAINERS, *BROKEN_HOOKS, CLASHING_FULL),
        *("kepler-core:LinearRegressionTrainer", "ridge", "a-good-hook", "MinIdleIsolator", "min"),
        sites=[bad_site, ridge_site],
        marks=marks,
        cwd=tmp_path,
        check=3,
    )
    report = json.loads(done.stdout)
    problems = {(p["namespace"], p["plugin"]): p["problem"] for p in report["problems"]}
    assert len(problems) == len(report["problems"])
    expected = {("kepler.trainers", f"{d}:{name}"): reason for d, (name, _, reason) in BROKEN_TRAINERS.items()}
    expected |= {("kepler.hooks", f"{d}:hooks"): reason for d, (_, reason) in BROKEN_HOOKS.items()}
    clash = ("kepler.trainers", "LinearRegressionTrainer")
    # nothing else suffers: neither the built-in plugins, nor the example, nor the good hooks
    assert set(problems) == {*expected, clash}
    for plugin, reason in expected.items():
        assert reason in problems[plugin]
    assert "kepler-core:LinearRegressionTrainer" in problems[clash]
    assert CLASHING_FULL in problems[clash]
    assert modules(marks) >= {"bad_import", "bad_exit", "kepler_clash_ing", "badhook_import"}  # it did import them
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("distribution", ["bad-exit", "bad-base"])
def test_info_of_a_broken_plugin_says_what_is_wrong_with_it(bad_site, tmp_path, distribution):
    name, _, reason = BROKEN_TRAINERS[distribution]
    line = one_line(kepler("plugins", "info", name, sites=[bad_site], cwd=tmp_path, check=1))
    assert f"{distribution} 2.0" in line
    assert reason in line


# --- broken distributions: training with the others -----------------------------------------------


def test_a_trainer_that_fails_fails_alone(bad_site, ridge_site, recording, reference, tmp_path):
    marks = tmp_path / "marks"
    failing = "RaisingTrainer", "ExitingTrainer", "NothingTrainer", "NaNTrainer"
    trainers = [*failing, "SGDRegressorTrainer", "ridge", CLASHING_FULL]
    sites = [bad_site, ridge_site]
    report, done = train(tmp_path, trainers, recording, sites=sites, marks=marks, check=3, jobs=2)
    models = {model["trainer"]: model for model in report["models"]}
    assert set(models) == {"SGDRegressorTrainer", "RidgeRegressorTrainer", "LinearRegressionTrainer"}
    assert models["SGDRegressorTrainer"] == reference["SGDRegressorTrainer"]
    failed = {failure["trainer"]: failure for failure in report["failed"]}
    assert set(failed) == set(failing)
    assert failed["RaisingTrainer"]["reason"] == "RuntimeError: the matrix is not to my liking"
    assert "enough" in failed["ExitingTrainer"]["reason"]
    assert "None" in failed["NothingTrainer"]["reason"]
    assert "NaN" in failed["NaNTrainer"]["reason"]
    for failure in failed.values():
        where = failure["source"], failure["output_type"], failure["feature_group"]
        assert where == ("acpi", "AbsPower", "CounterOnly")
    published = {path.parent.name for path in (tmp_path / "store").glob("mine/*/*/*/*/model.json")}
    assert published == {f"{name}_0" for name in models}

    # of a clash, the chosen side trained
    (metadata,) = (tmp_path / "store").glob("mine/*/*/*/LinearRegressionTrainer_0/metadata.json")
    assert json.loads(metadata.read_text())["lineage"]["versions"]["kepler-clash-ing"] == "3.1"

    # hooks that are broken are named; the others hear of everything
    for distribution in ("badhook-raises", *BROKEN_HOOKS):
        assert f"{distribution}:hooks" in done.stderr
    assert "this listener is ill" in done.stderr
    assert "ill again" in done.stderr
    assert "Traceback" not in done.stderr
    heard = (marks / "heard").read_text().splitlines()
    for event in ("SGDRegressorTrainer", "RaisingTrainer failed", "published mine 1"):
        assert heard.count(event) == 2  # two good listeners


def test_a_trainer_that_writes_into_its_data_harms_nobody(bad_site, recording, reference, tmp_path):
    # one process: the trainers after it see the same arrays
    trainers = ["OverwritingTrainer", "ExitingTrainer", "SGDRegressorTrainer", "kepler-core:LinearRegressionTrainer"]
    report, _ = train(tmp_path, trainers, recording, sites=[bad_site], check=3, backend="threading")
    models = {model["trainer"]: model for model in report["models"]}
    for name in ("SGDRegressorTrainer", "LinearRegressionTrainer"):
        assert models[name] == reference[name]


def test_only_failing_trainers_publish_nothing(bad_site, recording, tmp_path):
    _, done = train(tmp_path, ["RaisingTrainer", "ExitingTrainer"], recording, sites=[bad_site], check=1)
    assert "the matrix is not to my liking" in done.stderr
    assert "enough" in done.stderr
    assert not list((tmp_path / "store").glob("mine*"))


def test_training_with_a_broken_plugin_is_refused_in_one_line(bad_site, recording, tmp_path):
    _, done = train(tmp_path, ["ExitAtImportTrainer"], recording, sites=[bad_site], check=1)
    assert "SystemExit: good bye" in one_line(done)
    assert not (tmp_path / "store").exists()


@pytest.fixture(scope="module")
def said_of_bad(bad_site, workshop):
    """What is said of pipelines that name what is broken."""
    documents = {name: {"abs_trainers": [name]} for name, *_ in BROKEN_TRAINERS.values()}
    documents["argument"] = {"abs_trainers": [{"name": "kepler-core:SGDRegressorTrainer", "args": {"alpha": 1}}]}
    documents["clash"] = {"abs_trainers": [], "dyn_trainers": ["LinearRegressionTrainer"]}
    documents["both sides"] = {"abs_trainers": ["kepler-core:LinearRegressionTrainer", CLASHING_FULL]}
    documents["twice"] = {"abs_trainers": ["SGDRegressorTrainer", "kepler-core:SGDRegressorTrainer"]}
    return checked(documents, bad_site, cwd=workshop)


@pytest.mark.parametrize("distribution", BROKEN_TRAINERS)
def test_a_pipeline_that_names_a_broken_plugin_says_which_and_why(said_of_bad, distribution):
    name, _, reason = BROKEN_TRAINERS[distribution]
    line = said_of_bad[name]
    assert line.startswith("mine.yaml: abs_trainers[0]: ")
    assert f"{distribution} 2.0" in line
    assert name in line
    assert reason in line


def test_wrong_arguments_are_named_by_their_path(said_of_bad):
    assert said_of_bad["argument"].startswith("mine.yaml: abs_trainers[0]: ")
    assert "unknown argument 'alpha'" in said_of_bad["argument"]


# --- two distributions, one name ------------------------------------------------------------------


def test_a_clash_is_an_error_that_says_what_to_write(said_of_bad):
    line = said_of_bad["clash"]
    assert line.startswith("mine.yaml: dyn_trainers[0]: ")
    assert "'kepler-core:LinearRegressionTrainer'" in line
    assert f"'{CLASHING_FULL}'" in line


@pytest.mark.parametrize(
    ("which", "name"), [("both sides", "LinearRegressionTrainer"), ("twice", "SGDRegressorTrainer")]
)
def test_two_trainers_of_one_name_in_a_pipeline_are_refused(said_of_bad, which, name):
    # both would be published as <name>_0
    assert said_of_bad[which].startswith("mine.yaml: abs_trainers")
    assert name in said_of_bad[which]


def test_info_of_a_name_that_two_claim_shows_both(odd_site, tmp_path):
    found = json.loads(kepler("plugins", "info", "min", "--json", sites=[odd_site], cwd=tmp_path).stdout)
    assert {(entry["distribution"], entry["name"]) for entry in found} == {
        ("kepler-core", "MinIdleIsolator"),
        ("alias-clash", "OtherIsolator"),
    }


def test_the_other_side_of_a_clash_is_not_imported(odd_site, tmp_path):
    # choosing one must not run, nor be stopped by, the other
    marks = tmp_path / "marks"
    chosen = "kepler-core:SmoothExtractor"
    done = kepler("plugins", "info", chosen, sites=[odd_site], marks=marks, cwd=tmp_path)
    assert "from kepler-core " in done.stdout
    assert modules(marks) == set()


def test_an_alias_that_two_claim_is_an_error_and_a_name_goes_before_an_alias(said_of_odd):
    assert "'kepler-core:MinIdleIsolator'" in said_of_odd["alias"]
    assert "'alias-clash:OtherIsolator'" in said_of_odd["alias"]
    # a name goes before somebody else's alias
    assert said_of_odd["name"] == "isolator NoneIsolator"


def test_doctor_reports_an_alias_that_two_claim(odd_site, tmp_path):
    report = json.loads(
        kepler(
            "plugins", "doctor", "--json", "--no-checks", "alias-clash", sites=[odd_site], cwd=tmp_path, check=3
        ).stdout
    )
    (problem,) = [p for p in report["problems"] if p["namespace"] == "kepler.isolators"]
    assert problem["plugin"] == "min"
    assert "kepler-core:MinIdleIsolator" in problem["problem"]
    assert "alias-clash:OtherIsolator" in problem["problem"]


# --- more that can be wrong -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def odd_site(workshop):
    """Trainers that load but cannot be made, hooks that do worse than raise an exception, a clash
    whose other side ends the program, and clashing aliases."""
    folder = workshop / "odd-wheels"
    folder.mkdir()
    return install(
        workshop / "odd",
        wheel(
            folder,
            "unmakeable",
            UNMAKEABLE,
            {
                "kepler.trainers": {
                    "UnmakeableTrainer": ":UnmakeableTrainer",
                    "LightTrainer": ":LightTrainer",
                    "ExitsWhenMadeTrainer": ":ExitsWhenMadeTrainer",
                }
            },
        ),
        wheel(
            folder,
            "exit-clash",
            "import sys\nsys.exit('no')",
            {"kepler.extractors": {"SmoothExtractor": ":SmoothExtractor"}},
        ),
        wheel(
            folder,
            "alias-clash",
            ALIAS_CLASH,
            {
                "kepler.isolators": {"OtherIsolator": ":OtherIsolator"},
                "kepler.isolators.aliases": {"min": ":OtherIsolator", "NoneIsolator": ":OtherIsolator"},
            },
        ),
        hook_wheel(folder, "hook-exits", "@hookimpl\ndef kepler_model_trained():\n    raise SystemExit(5)"),
        hook_wheel(
            folder,
            "hook-class",
            "class Listener:\n    @hookimpl\n    def kepler_model_trained(self, model):\n        mark('class-heard')",
            ":Listener",
        ),
        hook_wheel(folder, "m-good-hook", GOOD_HOOK),
    )


@pytest.fixture(scope="module")
def said_of_odd(odd_site, workshop):
    """What is said of pipelines that name what is odd."""
    documents = {
        "alias": {"isolator": "min"},
        "name": {"isolator": "NoneIsolator", "abs_trainers": ["LightTrainer"]},
        "UnmakeableTrainer": {"abs_trainers": ["UnmakeableTrainer"]},
        "ExitsWhenMadeTrainer": {"abs_trainers": ["ExitsWhenMadeTrainer"]},
    }
    return checked(documents, odd_site, cwd=workshop)


@pytest.mark.parametrize(
    ("name", "reason"), [("UnmakeableTrainer", "no table t"), ("ExitsWhenMadeTrainer", "SystemExit")]
)
def test_a_trainer_that_cannot_be_made_says_so(said_of_odd, name, reason):
    line = said_of_odd[name]
    assert line.startswith("mine.yaml: abs_trainers[0]: ")
    assert name in line
    assert reason in line


def test_a_hook_that_exits_or_is_a_class_does_not_stop_the_training(odd_site, recording, reference, tmp_path):
    marks = tmp_path / "marks"
    report, done = train(tmp_path, ["SGDRegressorTrainer"], recording, sites=[odd_site], marks=marks)
    assert report["models"] == [reference["SGDRegressorTrainer"]]
    assert "hook-exits:hooks" in done.stderr
    # the class is used (as an object of it) or named as unusable; silence would be neither
    assert (marks / "class-heard").exists() or "hook-class:hooks" in done.stderr
    assert (marks / "heard").read_text().splitlines() == ["SGDRegressorTrainer", "published mine 1"]


def test_a_listener_for_an_unknown_event_is_blamed_alone(tmp_path):
    folder = tmp_path / "wheels"
    folder.mkdir()
    unknown = hook_wheel(folder, "bad-event", "@hookimpl\ndef kepler_model_traind(model): ...")
    site = install(tmp_path / "site", unknown, hook_wheel(folder, "good-hook", GOOD_HOOK))
    code = """if True:
        import json
        from kepler_core.plugins.hooks import Events, hookimpl
        class Mine:
            @hookimpl
            def kepler_model_trained(self, model):
                heard.append(model)
        heard = []
        events = Events()
        events.listen(Mine())
        events.send("kepler_model_trained", model={"trainer": "x"})
        print(json.dumps({"broken": events.broken, "heard": heard}))
    """
    found = json.loads(run(["-c", code], site, marks=tmp_path / "marks", cwd=tmp_path, check=0).stdout)
    assert list(found["broken"]) == ["bad-event:hooks"]
    assert "kepler_model_traind" in found["broken"]["bad-event:hooks"]
    assert found["heard"] == [{"trainer": "x"}]
    assert (tmp_path / "marks" / "heard").read_text() == "x\n"


def test_the_remains_of_a_half_removed_distribution_break_nothing(tmp_path):
    # an uninstall that was interrupted leaves a folder without METADATA
    left = tmp_path / "site" / "gone-1.0.dist-info"
    left.mkdir(parents=True)
    (left / "entry_points.txt").write_text("[kepler.trainers]\nGoneTrainer = gone:GoneTrainer\n")
    listed = kepler("plugins", "list", sites=[tmp_path / "site"], cwd=tmp_path).stdout
    assert "LinearRegressionTrainer" in listed
    line = one_line(kepler("plugins", "info", "GoneTrainer", sites=[tmp_path / "site"], cwd=tmp_path, check=1))
    assert "GoneTrainer" in line
