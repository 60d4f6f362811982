"""Tests of registries of plugins.

Names are listed without an import of the plugins, and wrong names get suggestions. `distribution:name` names a plugin
of one distribution. Wrong arguments of plugins are rejected.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Literal

import pytest
from click.testing import CliRunner

from kepler_core.cli.plugin_doctor import doctor
from kepler_core.contracts import CONTRACTS, Plugin
from kepler_core.errors import PluginError
from kepler_core.plugins import registry
from kepler_core.plugins.arguments import arguments_of, create

TRAINERS = {
    "PolynomialRegressionTrainer",
    "GradientBoostingRegressorTrainer",
    "HistGradientBoostingRegressorTrainer",
    "BlendTrainer",
    "KNeighborsRegressorTrainer",
    "LinearRegressionTrainer",
    "MachinePowerTrainer",
    "SVRRegressorTrainer",
    "XgboostFitTrainer",
    "SGDRegressorTrainer",
    "LogarithmicRegressionTrainer",
    "LogisticRegressionTrainer",
    "ExponentialRegressionTrainer",
}
RAPL = ("package", "core", "uncore", "dram")


def built_in(plugins: registry.Registry[Plugin]) -> set[str]:
    """Return the names of the plugins of kepler-core, without plugins of other installed distributions."""
    return {entry.name for entry in plugins.entries if entry.distribution == "kepler-core"}


def run_python(code: str) -> object:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# --- built-in plugins -----------------------------------------------------------------------------


def test_the_built_in_trainers():
    assert built_in(registry.trainers) == TRAINERS


def test_every_contract_has_its_registry():
    assert set(registry.REGISTRIES) == set(CONTRACTS)


@pytest.mark.parametrize(
    ("plugins", "alias", "name"),
    [
        (registry.isolators, "none", "NoneIsolator"),
        (registry.isolators, "min", "MinIdleIsolator"),
        (registry.extractors, "default", "DefaultExtractor"),
        (registry.extractors, "smooth", "SmoothExtractor"),
        (registry.energy_sources, "rapl", "rapl-sysfs"),
        (registry.energy_sources, "intel_rapl", "rapl-sysfs"),
        (registry.metric_schemas, "kepler-0.7", "kepler-0.7"),
        (registry.model_formats, "onnx", "onnx"),
        (registry.model_formats, "weights", "weights"),
    ],
)
def test_built_in_names_and_aliases(plugins, alias, name):
    assert plugins.canonical(alias) == name
    assert plugins.get(alias) is plugins.get(name)
    assert issubclass(plugins.get(alias), plugins.contract)


@pytest.mark.parametrize(
    ("name", "components", "sent_as"),
    [
        ("rapl-sysfs", RAPL, "intel_rapl"),
        ("rapl-msr", RAPL, "intel_rapl"),
        ("acpi", ("platform",), "acpi"),
        ("hmc", ("platform",), "acpi"),
        ("redfish", ("platform",), "acpi"),
        ("ampere-xgene-hwmon", ("package", "core"), "intel_rapl"),
        ("grace-acpi", ("package", "core"), "intel_rapl"),
        ("trained_power_model", (*RAPL, "platform"), "trained_power_model"),
        ("vm-kepler", RAPL, "vm-kepler"),
        ("vm-capacity", RAPL, "vm-capacity"),
        ("vm-marginal", RAPL, "vm-marginal"),
    ],
)
def test_energy_sources_measure_and_are_sent_as_on_the_wire(name, components, sent_as):
    source = registry.energy_sources.get(name)
    assert source.components == components
    assert source.sent_as == sent_as


@pytest.mark.parametrize("namespace", sorted(CONTRACTS))
def test_every_built_in_plugin_loads(namespace):
    plugins = registry.REGISTRIES[namespace]
    loaded, broken = plugins.load_all()
    assert not [str(plugin) for plugin in broken if plugin.entry.distribution == "kepler-core"]
    assert built_in(plugins) <= set(loaded)


def test_doctor_finds_nothing_wrong_with_the_built_in_plugins():
    done = CliRunner().invoke(doctor, ["--json", "--no-checks"], standalone_mode=False)
    report = json.loads(done.stdout)
    assert report["checked"] >= sum(len(built_in(plugins)) for plugins in registry.REGISTRIES.values())
    assert not [p for p in report["problems"] if p["plugin"].startswith("kepler-core:")]
    assert done.return_value == (3 if report["problems"] else 0)  # plugins of other distributions can have problems


# --- imports --------------------------------------------------------------------------------------


def test_listing_and_resolving_names_and_aliases_imports_no_plugin():
    seen = run_python("""if True:
        import json, sys
        from kepler_core.plugins import registry
        names = {n: r.names() for n, r in registry.REGISTRIES.items()}
        aliases = [alias for r in registry.REGISTRIES.values() for e in r.entries for alias in e.aliases]
        full = registry.trainers.entry("kepler-core:SGDRegressorTrainer").full_name
        canonical = registry.energy_sources.canonical("rapl")
        heavy = ("kepler_plugins", "sklearn", "scipy", "pandas", "xgboost", "onnxruntime")
        loaded = [m for m in sys.modules if m.partition(".")[0] in heavy]
        print(json.dumps({"names": names, "aliases": aliases, "full": full, "canonical": canonical, "loaded": loaded}))
    """)
    assert seen["loaded"] == []
    assert set(seen["names"]["kepler.trainers"]) >= TRAINERS
    assert set(seen["aliases"]) >= {"none", "min", "default", "smooth", "rapl", "intel_rapl"}
    assert seen["full"] == "kepler-core:SGDRegressorTrainer"
    assert seen["canonical"] == "rapl-sysfs"


def test_the_first_use_of_a_plugin_imports_no_other():
    seen = run_python("""if True:
        import json, sys
        from kepler_core.plugins import registry
        registry.isolators.get("min")
        print(json.dumps(sorted(m for m in sys.modules if m.startswith("kepler_plugins"))))
    """)
    assert seen == ["kepler_plugins", "kepler_plugins.isolators", "kepler_plugins.isolators.min_idle"]


def test_xgboost_is_not_imported_by_describing_its_trainer():
    seen = run_python("""if True:
        import json, sys
        from kepler_core.plugins import registry
        from kepler_core.plugins.arguments import arguments_of
        trainer = registry.trainers.get("XgboostFitTrainer")
        print(json.dumps({"extra": trainer.extra, "imported": "xgboost" in sys.modules,
                          "arguments": [a.name for a in arguments_of(trainer)]}))
    """)
    assert seen["extra"] == "xgboost"
    assert not seen["imported"]
    assert "n_estimators" in seen["arguments"]


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plugins", "wrong", "right"),
    [
        (registry.trainers, "GradientBoostRegressorTrainer", "GradientBoostingRegressorTrainer"),
        (registry.trainers, "sgdregressortrainer", "SGDRegressorTrainer"),
        (registry.trainers, "xgboost", "XgboostFitTrainer"),
        (registry.isolators, "minimum", "min"),
        (registry.extractors, "smoooth", "smooth"),
        (registry.energy_sources, "rapl-sys", "rapl-sysfs"),
        (registry.metric_schemas, "kepler-0.8", "kepler-0.7"),
        (registry.model_formats, "weight", "weights"),
    ],
)
def test_an_unknown_name_gets_the_close_matches(plugins, wrong, right):
    with pytest.raises(PluginError) as error:
        plugins.get(wrong)
    message = str(error.value)
    assert message.startswith(f"unknown {plugins.kind} {wrong!r}; did you mean ")
    assert right in message.partition("did you mean ")[2].rstrip("?").split(" or ")


@pytest.mark.parametrize("wrong", ["", ":", "kepler-core:", "qqqqqqqq"])
def test_an_unknown_name_without_close_matches_gets_all_names(wrong):
    with pytest.raises(PluginError) as error:
        registry.isolators.get(wrong)
    assert "MinIdleIsolator" in str(error.value)
    assert "NoneIsolator" in str(error.value)


@pytest.mark.parametrize("wrong", [None, 5, ["min"], b"min"])
def test_a_name_that_is_not_text(wrong):
    with pytest.raises(PluginError, match="the name must be a string"):
        registry.isolators.entry(wrong)


def test_distribution_and_name():
    assert registry.isolators.get("kepler-core:MinIdleIsolator") is registry.isolators.get("min")
    assert registry.isolators.get("kepler-core:min") is registry.isolators.get("min")
    assert registry.isolators.entry("min").full_name == "kepler-core:MinIdleIsolator"
    with pytest.raises(PluginError, match="unknown isolator 'elsewhere:MinIdleIsolator'"):
        registry.isolators.get("elsewhere:MinIdleIsolator")


def test_entries_named_finds_every_namespace():
    (entry,) = registry.entries_named("onnx")
    assert (entry.namespace, entry.name) == ("kepler.model_formats", "onnx")
    assert list(registry.entries_named("onyx")) == []


def test_entries_are_read_again_after_they_were_dropped():
    entries = registry.trainers.entries
    registry.forget_entry_points()
    assert registry.trainers.entries == entries
    assert registry.trainers.get("SGDRegressorTrainer").__name__ == "SGDRegressorTrainer"


# --- arguments ------------------------------------------------------------------------------------


class Sample(Plugin):
    """Plugin with one argument of each supported type."""

    def __init__(
        self,
        count: int,
        rate: float = 0.5,
        name: str = "x",
        fast: bool = False,
        window: int | None = None,
        levels: list[int] | None = None,
        kernel: Literal["rbf", "linear"] = "rbf",
    ) -> None:
        if count < 1:
            raise ValueError("count must be at least 1")
        self.values = (count, rate, name, fast, window, levels, kernel)


class Bare(Plugin):
    """Plugin without arguments."""


def test_arguments_are_read_from_the_signature():
    arguments = {a.name: (a.type, a.default, a.required) for a in arguments_of(Sample)}
    assert list(arguments) == ["count", "rate", "name", "fast", "window", "levels", "kernel"]
    assert arguments["count"] == ("int", None, True)
    assert arguments["rate"] == ("float", 0.5, False)
    assert arguments["window"] == ("int | None", None, False)
    assert arguments_of(Bare) == []


def test_arguments_reach_the_plugin():
    plugin = create(
        Sample,
        "sample",
        {"count": 3, "rate": 2, "fast": True, "window": 4, "levels": [1, 2], "kernel": "linear"},
    )
    assert plugin.values == (3, 2.0, "x", True, 4, [1, 2], "linear")
    assert isinstance(plugin.values[1], float)  # the registry has converted the integer 2 to a float
    assert create(Sample, "sample", {"count": 1, "window": None}).values[4] is None


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ({"count": 1, "rat": 0.1}, ["unknown argument 'rat'", "did you mean rate"]),
        ({"count": 1, "zzzzzz": 0.1}, ["unknown argument 'zzzzzz'", "known: count, "]),
        ({"count": 1, 7: 0.1}, ["unknown argument 7"]),
        ({}, ["argument 'count' is missing"]),
        ({"count": "3"}, ["count: '3' is not a whole number"]),
        ({"count": 3.0}, ["count: 3.0 is not a whole number"]),
        ({"count": True}, ["count: True is not a whole number"]),
        ({"count": None}, ["count: None is not a whole number"]),
        ({"count": 1, "rate": "fast"}, ["rate: 'fast' is not a number"]),
        ({"count": 1, "rate": True}, ["rate: True is not a number"]),
        ({"count": 1, "name": 5}, ["name: 5 is not text"]),
        ({"count": 1, "fast": 1}, ["fast: 1 is not true or false"]),
        ({"count": 1, "window": "all"}, ["window: 'all' is not a whole number or nothing"]),
        ({"count": 1, "levels": "12"}, ["levels", "'12'"]),
        ({"count": 1, "kernel": "cubic"}, ["kernel: 'cubic' is not one of 'rbf', 'linear'"]),
        ({"count": 0}, ["count must be at least 1"]),
    ],
)
def test_wrong_arguments_are_named(arguments, parts):
    with pytest.raises(PluginError) as error:
        create(Sample, "sample", arguments)
    message = str(error.value)
    assert message.startswith("sample: ")
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_an_argument_of_a_plugin_without_arguments_is_an_error():
    with pytest.raises(PluginError, match="bare: unknown argument 'x'; it takes none"):
        create(Bare, "bare", {"x": 1})


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("KNeighborsRegressorTrainer", {"n_neighbours": 3}, "did you mean n_neighbors?"),
        ("PolynomialRegressionTrainer", {"degree": "2"}, "degree: '2' is not a whole number"),
        ("PolynomialRegressionTrainer", {"degree": 0}, "argument degree: must be at least 1, not 0"),
        ("LinearRegressionTrainer", {"positive": False}, "it takes none"),
    ],
)
def test_arguments_of_built_in_trainers_are_checked(name, arguments, message):
    with pytest.raises(PluginError) as error:
        registry.trainers.create(name, arguments)
    assert name in str(error.value)
    assert message in str(error.value)


def test_defaults_of_built_in_plugins():
    def defaults(plugins: registry.Registry[Plugin], name: str) -> dict[str, object]:
        return {a.name: a.default for a in arguments_of(plugins.get(name))}

    assert defaults(registry.trainers, "PolynomialRegressionTrainer")["degree"] == 2
    assert defaults(registry.trainers, "KNeighborsRegressorTrainer")["n_neighbors"] == 6
    assert "window" in " ".join(defaults(registry.extractors, "smooth"))


class Unresolvable(Plugin):
    """Plugin with an annotation whose type cannot be resolved at run time."""

    def __init__(self, alpha: float = 1.0, kind: NotImported = None) -> None:  # noqa: F821
        self.alpha = alpha


def test_an_unresolvable_annotation_is_no_crash():
    # The registry either does not check the argument, or raises a PluginError with the plugin's name. It never raises
    # NameError.
    try:
        plugin = create(Unresolvable, "unresolvable", {"alpha": 2})
    except PluginError as error:
        assert "unresolvable" in str(error)  # noqa: PT017
    else:
        assert plugin.alpha == 2


class Stumbles(Plugin):
    """Plugin whose `__init__` raises `KeyError`."""

    def __init__(self, path: str = "") -> None:
        raise KeyError("no such table")


def test_an_exception_of_init_becomes_a_plugin_error():
    with pytest.raises(PluginError, match="stumbles: KeyError: 'no such table'"):
        create(Stumbles, "stumbles", {"path": "x"})
