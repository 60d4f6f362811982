"""Generates wheels of good and broken third-party plugins, and installs them into folders for tests.

Such a folder is called a site. A test adds sites to `PYTHONPATH` and runs programs in new processes, so that the
programs see the metadata that pip has written.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PIPELINE = """
energy_sources: [acpi]
feature_groups: [CounterOnly]
validation: {folds: 2}
"""

Finished = subprocess.CompletedProcess[str]


def run_python(
    *arguments: object, sites: tuple[Path, ...] = (), marks: Path | None = None, cwd: Path | None = None, code: int = 0
) -> Finished:
    """Run Python with the folders `sites` on its PYTHONPATH, and check that its exit code is `code`.

    When a plugin module that was made by `wheel` is imported, it writes a file with its name to the folder `marks`.
    So tests can see which plugin modules were imported.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sites))}
    if marks is not None:
        marks.mkdir(exist_ok=True)
        environment["PLUGIN_TEST_MARKS"] = str(marks)
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, env=environment, cwd=cwd, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def kepler_process(*arguments: object, sites: tuple[Path, ...] = (), cwd: Path, **options: Any) -> Finished:
    """Run `kepler-model` as a process, with the folders `sites` on its PYTHONPATH."""
    return run_python("-m", "kepler_core", *arguments, sites=sites, cwd=cwd, **options)


def error_line(done: Finished) -> str:
    """Return the only line of standard error. Fail if there are more lines, such as a traceback."""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


def train(
    folder: Path, trainers: list[str], recording: Path, *, pipeline: str = PIPELINE, jobs: int = 1, **options: Any
) -> Finished:
    """Train a pipeline named `mine` with the AbsPower trainers `trainers`. Publish it in the store `folder/store`."""
    path = folder / "mine.yaml"
    path.write_text(pipeline + f"abs_trainers: [{', '.join(trainers)}]\n")
    backend = options.pop("backend", "loky")
    return kepler_process(
        *("train", path, "--input", recording, "--store", folder / "store", "--json"),
        *("--jobs", jobs, "--backend", backend),
        cwd=folder,
        **options,
    )


_PIPELINES_CODE = """
import json, sys
from kepler_core.errors import KeplerError
from kepler_core.pipeline.load import pipeline_from
outcomes = []
for document in json.loads(sys.argv[1]):
    try:
        spec = pipeline_from({"name": "mine", "abs_trainers": [], **document}, "mine.yaml")
        outcomes.append("isolator " + spec.isolator.name)
    except KeplerError as error:
        outcomes.append(str(error))
    except BaseException as error:
        outcomes.append("not for users: " + repr(error))
print(json.dumps(outcomes))
"""


def check_pipelines(documents: Mapping[str, Any], site: Path, cwd: Path) -> dict[str, str]:
    """Load pipelines in one process, and return the outcome of each pipeline.

    The outcome of a valid pipeline is the text "isolator" followed by the name of the pipeline's isolator. The
    outcome of an invalid pipeline is the error message that the command line would print.
    """
    done = run_python("-c", _PIPELINES_CODE, json.dumps(list(documents.values())), sites=(site,), cwd=cwd)
    return dict(zip(documents, json.loads(done.stdout), strict=True))


def pip(*arguments: object) -> None:
    run_python("-m", "pip", "--disable-pip-version-check", "--quiet", *arguments)


def install(site: Path, *wheels: Path) -> Path:
    """Install wheels with pip into a folder, and return the folder."""
    pip("install", "--no-deps", "--no-index", "--target", site, *wheels)
    return site


# --- wheels ---------------------------------------------------------------------------------------

_MARK = """
import os, pathlib
def mark(name, text=""):
    if "PLUGIN_TEST_MARKS" in os.environ:
        with open(pathlib.Path(os.environ["PLUGIN_TEST_MARKS"]) / name, "a") as file:
            file.write(text + "\\n")
mark(__name__)
"""


def imported_modules(marks: Path) -> set[str]:
    """Return the names of the plugin modules that have written a file to the folder `marks` on their import."""
    return {entry.name for entry in marks.iterdir()}


def wheel(
    folder: Path, distribution: str, source: str, entry_points: Mapping[str, Mapping[str, str]], version: str = "2.0"
) -> Path:
    """Write a wheel that contains a single module, in the format of build tools.

    `entry_points` has a dict for each group of entry points. The dict maps the names of entry points to targets. A
    target is ":Class" for a class in the module, or "" for the module itself.
    """
    module = distribution.lower().replace("-", "_").replace(".", "_")
    info = f"{module}-{version}.dist-info"
    groups = "".join(
        f"[{group}]\n" + "".join(f"{name} = {module}{target}\n" for name, target in names.items())
        for group, names in entry_points.items()
    )
    files = {
        f"{module}.py": _MARK + source,
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


def trainer_wheel(folder: Path, distribution: str, name: str, source: str, version: str = "2.0") -> Path:
    return wheel(folder, distribution, source, {"kepler.trainers": {name: f":{name}"}}, version)


def hook_wheel(folder: Path, distribution: str, source: str, target: str = "") -> Path:
    imports = "from kepler_core.plugins.hooks import hookimpl\n"
    return wheel(folder, distribution, imports + source, {"kepler.hooks": {"hooks": target}})


# --- broken plugins -------------------------------------------------------------------------------

_CONTRACT = "from kepler_core.contracts import Trainer\n"

# Most of the time of these tests is needed to import scikit-learn. So a module imports scikit-learn only when one
# of its regressors is fitted.
_SKLEARN = """
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.linear_model import LinearRegression
"""

BROKEN_TRAINERS = {
    # keys: names of distributions; values: trainer, source code of its module, and reason that `plugins doctor` reports
    "bad-import": ("BadImportTrainer", "import a_module_that_nobody_has", "No module named 'a_module_that_nobody_has'"),
    "bad-attribute": ("NotThereTrainer", "", "NotThereTrainer"),
    "bad-exit": ("ExitAtImportTrainer", "import sys\nsys.exit('good bye')", "SystemExit: good bye"),
    "bad-base": ("NoTrainer", "class NoTrainer:\n    def regressor(self, task): ...", "kepler_core.contracts.Trainer"),
    "bad-object": ("NoClassTrainer", "NoClassTrainer = 5", "5 is not a class"),
    "bad-abstract": (
        "AbstractTrainer",
        _CONTRACT + "class AbstractTrainer(Trainer): ...",
        "regressor not implemented",
    ),
}

CLASHING = "Kepler_Clash.Ing"
"""Name of a distribution in an unusual spelling. pip normalises it to kepler-clash-ing."""
CLASHING_FULL = "kepler-clash-ing:LinearRegressionTrainer"
_CLASHING_SOURCE = (
    _CONTRACT
    + _SKLEARN
    + """
class LinearRegressionTrainer(Trainer):
    def regressor(self, task):
        return LinearRegression(positive=False)
"""
)

FAILING_TRAINERS = ("RaisingTrainer", "ExitingTrainer", "OverwritingTrainer", "NothingTrainer", "NaNTrainer")
_FAILING_SOURCE = (
    _CONTRACT
    + _SKLEARN
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

GOOD_HOOK = """
@hookimpl
def kepler_model_trained(model):
    mark("calls", model["trainer"] + (" failed" if "reason" in model else ""))

@hookimpl
def kepler_model_published(pipeline, version):
    mark("calls", f"published {pipeline} {version}")
"""
_RAISING_HOOK = """
@hookimpl
def kepler_model_trained(model):
    raise RuntimeError("this listener is ill")

@hookimpl
def kepler_dataset_ready(dataset):
    raise ValueError("ill again")
"""

BROKEN_HOOKS = {
    # keys: names of distributions; values: source code of the module, and reason that `plugins doctor` reports
    "badhook-import": ("import a_module_that_nobody_has", "a_module_that_nobody_has"),
    "badhook-exit": ("import sys\nsys.exit(7)", "SystemExit: 7"),
    "badhook-signature": ("@hookimpl\ndef kepler_model_trained(model, mood): ...", "mood"),
}


def broken_wheels(folder: Path) -> list[Path]:
    """Write wheels of broken trainers, of broken listeners and of two good listeners."""
    wheels = [trainer_wheel(folder, name, *plugin[:2]) for name, plugin in BROKEN_TRAINERS.items()]
    wheels.append(trainer_wheel(folder, CLASHING, "LinearRegressionTrainer", _CLASHING_SOURCE, version="3.1"))
    trainers = {"kepler.trainers": {name: f":{name}" for name in FAILING_TRAINERS}}
    wheels.append(wheel(folder, "bad-fit", _FAILING_SOURCE, trainers))
    wheels += [hook_wheel(folder, name, source) for name, (source, _) in BROKEN_HOOKS.items()]
    wheels.append(hook_wheel(folder, "badhook-raises", _RAISING_HOOK))
    wheels.append(hook_wheel(folder, "a-good-hook", GOOD_HOOK))
    wheels.append(hook_wheel(folder, "z-good-hook", GOOD_HOOK))
    return wheels


_UNMAKEABLE_SOURCE = (
    _CONTRACT
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

_ALIAS_SOURCE = """
from kepler_core.contracts import Isolator
class OtherIsolator(Isolator):
    def isolate(self, dataset, context):
        return dataset
"""

_CLASS_HOOK = """
class Listener:
    @hookimpl
    def kepler_model_trained(self, model):
        mark('class-called')
"""


def odd_wheels(folder: Path) -> list[Path]:
    """Write wheels of unusual plugins that Kepler Core can find, and of one good listener.

    Some trainers raise an error or exit in `__init__`. One isolator has aliases that built-in plugins also
    have. One extractor has the name of a built-in extractor, and its module ends the program that imports it.
    One listener exits when it is called, and one listener is a class.
    """
    trainers = {name: f":{name}" for name in ("UnmakeableTrainer", "LightTrainer", "ExitsWhenMadeTrainer")}
    isolators = {
        "kepler.isolators": {"OtherIsolator": ":OtherIsolator"},
        "kepler.isolators.aliases": {"min": ":OtherIsolator", "NoneIsolator": ":OtherIsolator"},
    }
    extractors = {"kepler.extractors": {"SmoothExtractor": ":SmoothExtractor"}}
    return [
        wheel(folder, "unmakeable", _UNMAKEABLE_SOURCE, {"kepler.trainers": trainers}),
        wheel(folder, "exit-clash", "import sys\nsys.exit('no')", extractors),
        wheel(folder, "alias-clash", _ALIAS_SOURCE, isolators),
        hook_wheel(folder, "hook-exits", "@hookimpl\ndef kepler_model_trained():\n    raise SystemExit(5)"),
        hook_wheel(folder, "hook-class", _CLASS_HOOK, ":Listener"),
        hook_wheel(folder, "m-good-hook", GOOD_HOOK),
    ]
