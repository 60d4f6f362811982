"""Tests of `kepler_core.testing`: built-in plugins pass all checks, and the checks find errors of bad plugins."""

from __future__ import annotations

import inspect
import os
import random
import time

import attrs
import numpy as np
import pytest
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression, Ridge

from kepler_core import testing
from kepler_core.contracts import (
    EnergySource,
    Extractor,
    Isolator,
    MachineMapping,
    MetricMapping,
    MetricSchema,
    ModelFormat,
    Trainer,
    UnusedMetric,
)
from kepler_core.errors import PluginError
from kepler_core.frames import node_dataset
from kepler_core.plugins import registry
from kepler_core.plugins.problems import missing_modules
from kepler_core.testing import (
    CheckError,
    check_all,
    checks_of,
    energy_sources,
    extractors,
    isolators,
    metric_schemas,
    model_formats,
    parametrize_with_checks,
    plugins,
    trainers,
)
from kepler_core.vocabulary import COUNTER_FEATURES
from kepler_plugins.trainers.blend import BlendRegressor

BUILT_IN = [
    pytest.param(plugins, entry.full_name, id=f"{entry.namespace.removeprefix('kepler.')}-{entry.name}")
    for plugins in registry.REGISTRIES.values()
    for entry in plugins.entries
    if entry.distribution == "kepler-core"
]


ARGUMENTS = {
    "kepler-core:powercap": {"root": "sys"},
    "kepler-core:hwmon": {"root": "sys"},
    "kepler-core:watts": {"path": "watts"},
    "kepler-core:prometheus": {"port": 0},
    "kepler-core:per-vm": {"folder": "guests"},
}
"""Arguments that a plugin requires, or whose defaults could disturb a program on this machine, by plugin."""

FEW_TREES = {
    "kepler-core:BlendTrainer": {"boosted_trees": 20, "extra_trees": 5},
    "kepler-core:MachinePowerTrainer": {"boosted_trees": 20, "extra_trees": 5},
    "kepler-core:GradientBoostingRegressorTrainer": {"n_estimators": 20},
    "kepler-core:HistGradientBoostingRegressorTrainer": {"max_iter": 20},
}
"""Trainer -> arguments with fewer trees than the default, so that most of the checks take less time."""
WITH_ALL_TREES = ("learns", "fits_in_memory")
"""Checks whose results depend on the number of trees. They run with the default arguments of each trainer."""


@pytest.mark.parametrize(("plugins", "name"), BUILT_IN)
def test_built_in_plugins_pass(plugins, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plugin = plugins.get(name)
    if missing := missing_modules(plugin):
        pytest.skip(f"{missing[0]} is not installed")
    # The checks of a model format need a regressor. For `blend`, they cannot make a suitable regressor themselves.
    extras = {"regressor": BlendRegressor(COUNTER_FEATURES, ())} if name == "kepler-core:blend" else {}
    checks = checks_of(plugin, ARGUMENTS.get(name), **extras)
    if name in FEW_TREES:
        quicker = [check for check in checks_of(plugin, FEW_TREES[name]) if check.name not in WITH_ALL_TREES]
        checks = [*(check for check in checks if check.name in WITH_ALL_TREES), *quicker]
        assert len(checks) == len(checks_of(plugin))
    check_all(checks)


# --- trainers -------------------------------------------------------------------------------------


class Fits(RegressorMixin, BaseEstimator):
    """A correct linear regressor. Subclasses make mistakes in `fit` or `predict`."""

    def fit(self, X, y):
        self.line_ = LinearRegression().fit(np.nan_to_num(X), y)
        self.coef_, self.intercept_ = self.line_.coef_, float(self.line_.intercept_)
        return self

    def predict(self, X):
        return self.line_.predict(np.nan_to_num(X))


def trainer(regressor, **attributes):
    """Return a trainer class that gets its regressors from the function `regressor`."""

    class Given(Trainer):
        """Trainer that gets its regressors from a function."""

        def regressor(self, task):
            return regressor(task)

    for name, value in attributes.items():
        setattr(Given, name, value)
    return Given


KEPT = Ridge()


class FirstColumn(Fits):
    def fit(self, X, y):
        return super().fit(X * ([1] + [0] * (X.shape[1] - 1)), y)

    def predict(self, X):
        return super().predict(X * ([1] + [0] * (X.shape[1] - 1)))


class Writes(Fits):
    def fit(self, X, y):
        X += 0.0
        return super().fit(X, y)


class Noisy(Fits):
    def fit(self, X, y):
        return super().fit(X, y + np.random.normal(size=len(y)))


class Unportable(Fits):
    def fit(self, X, y):
        super().fit(X, y)
        del self.coef_
        return self


class Locked(Fits):
    def fit(self, X, y):
        self.call = lambda: 0
        return super().fit(X, y)


class Together(Fits):
    def predict(self, X):
        return super().predict(X) + len(X)


class Large(Fits):
    def fit(self, X, y):
        np.ones((len(X), len(X), 4)).sum()
        return super().fit(X, y)


class Stores(Fits):
    def predict(self, X):
        return super().predict(X) * 1.01


class Divides(Fits):
    def fit(self, X, y):
        self.spread_ = np.ptp(y)
        return super().fit(X, y)

    def predict(self, X):
        with np.errstate(all="ignore"):
            return super().predict(X) * self.spread_ / self.spread_


class Spreads(Fits):
    def fit(self, X, y):
        super().fit(X, y)
        self.off_ = X.sum() * 0
        return self

    def predict(self, X):
        return super().predict(X) + self.off_


class Mean(Fits):
    def predict(self, X):
        return super().predict(X) * 0 + 100


BAD_TRAINERS = {
    "returns_an_unfitted_regressor": (lambda task: KEPT, "make a new one at each call"),
    "predicts_a_number_per_row": (lambda task: None, "return an unfitted object"),
    "learns": (lambda task: Mean(), "on held-out rows the error is"),
    "takes_columns_in_any_order": (lambda task: FirstColumn(), "task.features"),
    "predicts_in_watts": (lambda task: Mean(), "ten times the power"),
    "survives_a_constant_target": (lambda task: Divides(), "do not divide by the spread of y"),
    "survives_one_row": (lambda task: Together(), "may depend on its row only"),
    "handles_nan": (lambda task: Spreads(), "raise ValueError in fit"),
    "does_not_change_its_data": (lambda task: Writes(), "work on a copy"),
    "is_deterministic": (lambda task: Noisy(), "random_state=task.seed"),
    "regressor_is_picklable": (lambda task: Locked(), "keep lambdas and open files out of it"),
    "portable_export_agrees": (lambda task: Stores(), "differs from the fitted one"),
    "stored_model_needs_no_plugin": (lambda task: Unportable(), "skl2onnx can convert"),
    "fits_in_memory": (lambda task: Large(), "MB, more than 256"),
}


def run_check(plugin, name, **extras):
    """Run the check `name` of a plugin."""
    (check,) = [check for check in checks_of(plugin, **extras) if check.name == name]
    check()


@pytest.mark.parametrize("name", BAD_TRAINERS)
def test_bad_trainers_are_told_what_to_do(name):
    make, message = BAD_TRAINERS[name]
    with pytest.raises(CheckError) as error:
        run_check(trainer(make), name)
    assert str(error.value).startswith(f"Given: {name}: ")
    assert message in str(error.value)


def lightgbm_of_close_thresholds():
    from lightgbm import LGBMRegressor

    options = {"min_child_samples": 1, "min_data_in_bin": 1, "num_leaves": 400, "max_bin": 1000}
    return LGBMRegressor(n_estimators=5, n_jobs=1, verbose=-1, **options)


def histogram_trees_of_close_thresholds():
    return HistGradientBoostingRegressor(max_iter=5, min_samples_leaf=1, max_leaf_nodes=400, max_bins=255)


@pytest.mark.parametrize(
    ("make", "n"),
    [
        (lightgbm_of_close_thresholds, 200),
        (histogram_trees_of_close_thresholds, 100),
    ],  # n is 100, so that the 2 n distinct values of X fit into the histogram's 255 bins
)
def test_trees_compare_in_single_precision_as_they_were_fitted(make, n):
    # The split thresholds of the trees lie halfway between two neighbouring single-precision numbers. If a threshold
    # is rounded to single precision, it often becomes the larger number, and both numbers are on the same side.
    readings = np.linspace(0.1, 0.9, n, dtype=np.float32)
    X = np.concatenate([readings, np.nextafter(readings, np.float32(1))])[:, None]
    y = np.concatenate([np.zeros(n), np.full(n, 100.0)])
    fitted = make().fit(X.astype(np.float64), y)
    model_format = registry.model_formats.create("onnx", {})
    loaded = model_format.load(model_format.dump(fitted, ("cpu_cycles",), X), ("cpu_cycles",))
    expected = fitted.predict(X.astype(np.float64))
    assert np.ptp(expected) > 10
    assert np.abs(loaded.predict(X) - expected).max() < 1e-3


# --- checks that apply to plugins of any contract -------------------------------------------------


def undocumented():
    class Bare(Trainer):
        def regressor(self, task): ...

    return Bare


def untyped():
    class Untyped(Trainer):
        """Trainer that has an argument without annotation."""

        def __init__(self, alpha=1.0): ...

        def regressor(self, task): ...

    return Untyped


def wrong_default():
    class Wrong(Trainer):
        """Trainer that has an argument with a default that does not fit its annotation."""

        def __init__(self, alpha: int = "one"): ...

        def regressor(self, task): ...

    return Wrong


def abstract():
    class Abstract(Isolator):
        """Isolator that implements no abstract method."""

    return Abstract


@pytest.mark.parametrize(
    ("plugin", "name", "message"),
    [
        (undocumented(), "has_a_description", "no docstring"),
        (untyped(), "arguments_are_typed", "'alpha' has no annotation"),
        (wrong_default(), "defaults_can_be_written_in_yaml", "does not have the annotated type"),
        (abstract(), "is_complete", "not implemented: isolate"),
        (undocumented(), "is_picklable", "classes at the top level"),
    ],
)
def test_checks_of_every_plugin_find_errors(plugin, name, message):
    with pytest.raises(CheckError, match=message):
        run_check(plugin, name)


def test_side_effects_of_an_import_are_reported(tmp_path, monkeypatch):
    (tmp_path / "plugin_with_effects.py").write_text(
        "import os\n"
        "from kepler_core.contracts import EnergySource\n"
        "os.environ['PLUGIN_WAS_HERE'] = '1'\n"
        "class Meter(EnergySource):\n    'A meter.'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("PLUGIN_WAS_HERE", raising=False)
    from plugin_with_effects import Meter

    monkeypatch.setenv("PLUGIN_WAS_HERE", os.environ.pop("PLUGIN_WAS_HERE"))
    monkeypatch.delenv("PLUGIN_WAS_HERE")
    with pytest.raises(CheckError, match="importing its module changes environment variables"):
        run_check(Meter, "import_has_no_side_effects")


# --- isolators, extractors, energy sources, metric schemas and model formats ----------------------


class TakesTooMuch(Isolator):
    """Isolator whose dynamic power is negative."""

    def isolate(self, dataset, context):
        isolated = dataset.isolated(dataset.node_power() * 0.5)
        frame = isolated.frame.copy()
        frame[isolated.power_columns] -= 1000.0
        return attrs.evolve(isolated, frame=frame)


class ChangesFeatures(Isolator):
    """Isolator that changes a feature of its input in place."""

    def isolate(self, dataset, context):
        dataset.frame[dataset.features[0]] *= 2
        return dataset.isolated(dataset.node_power() * 0.1)


class Forgets(Isolator):
    """Isolator that subtracts a tenth of the power but reports no background power."""

    def isolate(self, dataset, context):
        isolated = dataset.isolated(dataset.node_power() * 0.1)
        return attrs.evolve(isolated, background=isolated.background * 0)


class Random(Isolator):
    """Isolator that subtracts a different, random part of the power at each call."""

    def isolate(self, dataset, context):
        return dataset.isolated(dataset.node_power() * random.random())


class Passes(Isolator):
    """Isolator that returns its input unchanged."""

    def isolate(self, dataset, context):
        return dataset


class OtherOrder(Extractor):
    """Extractor that sorts the features, and returns a row for each node even if rows by container are requested."""

    def extract(self, observations, features, source, components, *, by_container):
        power = {component: observations.power[source, component] for component in components}
        return node_dataset(observations, observations.node_features, power, tuple(sorted(features)), source)


class Watch(EnergySource):
    """Energy source with a component that Kepler Core does not know. The component is named `hours`."""

    components = ("hours",)
    sent_as = " "
    reads = ("rapl-sysfs",)


def schema(mapping):
    """Return a metric schema class that calls `mapping(metric)`. This function returns a mapping or None."""

    class Given(MetricSchema):
        """Metric schema that maps metrics with a function."""

        def mappings(self, metric):
            result = mapping(metric)
            return () if result is None else (result,)

        def spelling(self, level, name):
            return {"bpf_cpu_time_ms": "a_cpu", "platform": "a_power"}.get(name, name)

    return Given


def greedy(metric):
    return MetricMapping("feature", "bpf_cpu_time_ms", "container", ("container_id",))


def slow(metric):
    end = time.process_time() + 0.01
    while time.process_time() < end:
        pass
    return greedy(metric) if metric == "a_cpu" else None


def stranger(metric):
    return MetricMapping("feature", "heartbeats", "container", ()) if metric == "a_cpu" else None


class DescribesNothing(schema(stranger)):
    """Metric schema that finds an attribute of machines that does not exist."""

    def mappings(self, metric):
        return ()

    def machine_mappings(self, metric):
        return (MachineMapping("age"),) if metric == "a_cpu" else ()


def scraped(metrics):
    """Return a metric schema class whose method `mappings` looks up a metric's mappings in the dict `metrics`."""

    class Scraped(MetricSchema):
        """Metric schema of an exporter whose output is `SCRAPE`."""

        def mappings(self, metric):
            return metrics.get(metric, ())

    return Scraped


SCRAPE = """
# TYPE x_zone_joules_total counter
x_zone_joules_total{path="0",zone="package"} 8
x_zone_joules_total{path="1",zone="core"} 5
x_zone_joules_total{path="2",zone="dram-1"} 2
# TYPE x_package_now gauge
x_package_now 41.2
# TYPE x_cpu_joules_total counter
x_cpu_joules_total 7
# TYPE x_cpu_active_joules_total counter
x_cpu_active_joules_total 3
# TYPE x_ticks counter
x_ticks{mode="user"} 1
x_ticks{mode="idle"} 1
"""
ZONES_BY_PATH = MetricMapping("energy", "package", "node", ("path",), source="rapl-sysfs")


def package(**about):
    return MetricMapping("energy", "package", "node", source="rapl-sysfs", **about)


@pytest.mark.parametrize(
    ("metrics", "name", "message"),
    [
        ({"x_zone_joules_total": (ZONES_BY_PATH,)}, "adds_no_overlapping_zones", 'x_zone_joules_total{zone="core"}'),
        (
            {
                "x_zone_joules_total": (
                    package(where={"zone": "package"}, part="a"),
                    package(where={"zone": "core"}, part="b"),
                )
            },
            "adds_no_overlapping_zones",
            "write one mapping for each zone",
        ),
        ({"x_package_now": (package(),)}, "uses_no_gauge_as_energy", "is a gauge, but is mapped as energy"),
        (
            {"x_cpu_joules_total": (MetricMapping("power", "package", "node", source="rapl-sysfs"),)},
            "uses_no_gauge_as_energy",
            "is a counter, but is mapped as power",
        ),
        (
            {"x_cpu_joules_total": (package(part="all"),), "x_cpu_active_joules_total": (package(part="active"),)},
            "counts_nothing_twice",
            "x_cpu_active_joules_total seems to be a part of x_cpu_joules_total",
        ),
        (
            {"x_cpu_joules_total": (package(),), "x_cpu_active_joules_total": (package(),)},
            "counts_nothing_twice",
            "both measure package",
        ),
        ({"x_cpu_joules_total": (package(),)}, "drops_no_metric", "x_zone_joules_total is not mapped"),
        (
            {"x_zone_joules_total": (package(where={"zone": "package"}),),
             "x_cpu_joules_total": (UnusedMetric("a sum"),),
             "x_cpu_active_joules_total": (UnusedMetric("a part"),)},
            "drops_no_metric",
            "'zone': 'core'",
        ),
    ],
)  # fmt: skip
def test_checks_find_mistakes_in_the_exporters_output(metrics, name, message):
    checks = {check.name: check for check in checks_of(scraped(metrics), scrape=SCRAPE)}
    with pytest.raises(CheckError) as error:
        checks[name]()
    assert message in str(error.value)


def test_checks_find_added_zones_without_the_exporters_output():
    zones = {"a_power": (MetricMapping("energy", "package", "node", ("zone",), source="rapl-sysfs"),)}
    checks = {check.name: check for check in checks_of(scraped(zones), metrics={"a_power": "package"})}
    with pytest.raises(CheckError, match="these zones overlap"):
        checks["adds_no_overlapping_zones"]()


class Pickles(ModelFormat):
    """A wrong model format: it stores pickles, which is forbidden."""

    suffix = "pickle"

    def supports(self, regressor):
        return True

    def dump(self, regressor, features, X):
        import pickle

        return pickle.dumps(regressor)

    def load(self, content, features):
        import pickle

        return pickle.loads(content)


@pytest.mark.parametrize(
    ("plugin", "name", "message"),
    [
        (TakesTooMuch, "is_never_negative", "take away no more than the measured power"),
        (ChangesFeatures, "does_not_change_its_data", "work on a copy"),
        (Forgets, "loses_no_power", "from the measured power"),
        (Forgets, "can_be_undone", "from the measured power"),
        (Random, "is_deterministic", "the same data set gave two different results"),
        (Passes, "returns_dynamic_power", "return dataset.isolated"),
        (OtherOrder, "returns_what_was_requested", "requested were rows by container"),
        (OtherOrder, "takes_features_in_any_order", "not in the requested order"),
        (Watch, "measures_known_components", "hours"),
        (Watch, "has_a_name_on_the_wire", "write the name that Kepler uses"),
        (Watch, "reads_no_other_sources_labels", "rapl-sysfs also reads rapl-sysfs"),
        (schema(lambda metric: None), "knows_metrics", "let spelling"),
        (schema(greedy), "ignores_other_metrics", "return () for a metric of another exporter"),
        (schema(slow), "mapping_is_quick", "look names up"),
        (schema(stranger), "uses_known_words", "'heartbeats' is no feature"),
        (DescribesNothing, "uses_known_words", "'age' is no attribute of a machine; known are processor"),
        (Pickles, "has_a_suffix", "write it with its dot"),
        (Pickles, "supports_only_regressors", "no regressor"),
        (Pickles, "rejects_other_bytes", "raise ModelError"),
        (Pickles, "rejects_other_features", "load() with too few features raises"),
    ],
)
def test_checks_find_errors(plugin, name, message):
    with pytest.raises(CheckError) as error:
        run_check(plugin, name)
    assert message in str(error.value)


def test_check_names_of_a_contract_are_unique():
    for plugin in (Forgets, OtherOrder, Watch, schema(greedy), Pickles, trainer(lambda task: None)):
        names = [check.name for check in checks_of(plugin)]
        assert len(set(names)) == len(names) > 8


@pytest.mark.parametrize(
    "module",
    [plugins, trainers, isolators, extractors, energy_sources, metric_schemas, model_formats],
    ids=lambda module: module.__name__.rpartition(".")[2],
)
def test_every_check_function_is_listed(module):
    functions = {
        function
        for name, function in vars(module).items()
        if inspect.isfunction(function) and function.__module__ == module.__name__ and not name.startswith("_")
    }
    assert functions == {check for check in module.CHECKS if check.__module__ == module.__name__}


# --- functions that collect and run checks --------------------------------------------------------


def test_all_failures_are_reported_together():
    with pytest.raises(CheckError) as error:
        testing.check_energy_source(Watch)
    lines = str(error.value).splitlines()
    assert [line.split(": ")[1] for line in lines] == [
        "measures_known_components", "has_a_name_on_the_wire", "reads_no_other_sources_labels"
    ]  # fmt: skip


def test_a_check_of_another_contract_is_refused():
    with pytest.raises(PluginError, match="Forgets is no Trainer"):
        testing.check_trainer(Forgets)


def test_expected_failures_are_strict():
    marked = parametrize_with_checks(Watch, expected_failures={"reads_no_other_sources_labels": "it is the same meter"})
    (parameter,) = [parameter for parameter in marked.args[1] if parameter.id == "reads_no_other_sources_labels"]
    assert parameter.marks[0].kwargs["strict"]
    with pytest.raises(PluginError, match="did you mean reads_no_other_sources_labels"):
        parametrize_with_checks(Watch, expected_failures={"reads_no_other_sources_label": "a slip"})


def test_an_unknown_extra_is_an_error():
    with pytest.raises(PluginError, match="no extra objects are accepted"):
        checks_of(Watch, regressor=Ridge())


def test_pytest_finds_the_fixtures(kepler_recording, kepler_dataset, kepler_container_dataset, kepler_store):
    assert len(kepler_recording.metrics) > 5
    assert kepler_dataset.output_type == "AbsPower"
    assert kepler_container_dataset.by_container
    assert kepler_store.pipelines() == []
