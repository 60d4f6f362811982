"""Tests of installed plugins: settings that allow or deny them, API versions, and how their metadata are read."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import pytest
from support.plugin_wheels import kepler_process

from kepler_core.cli.plugin_probe import probe_plugins
from kepler_core.errors import PluginError, UnknownPluginError
from kepler_core.plugins import entries as plugin_entries
from kepler_core.plugins import registry, settings
from kepler_core.plugins.entries import api_problem
from kepler_core.plugins.hooks import Hooks, hook_entries
from kepler_core.recording import observe, read_recording

TRAINER = """
from kepler_core.contracts import Trainer

class {name}(Trainer):
    "A trainer."

    def regressor(self, task):
        from sklearn.linear_model import LinearRegression
        return LinearRegression(positive=True)
"""


@pytest.fixture(autouse=True)
def rescan(monkeypatch):
    for key in (settings.AUTOLOAD, settings.ALLOW, settings.DENY):
        monkeypatch.delenv(key, raising=False)
    registry.forget_entry_points()
    yield
    monkeypatch.undo()
    registry.forget_entry_points()


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Return a function that writes a distribution with one module into a folder on sys.path."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))

    def install(distribution, source, groups, version="2.0"):
        module = distribution.replace("-", "_")
        (folder / f"{module}.py").write_text(source)
        info = folder / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(
            "".join(
                f"[{group}]\n" + "".join(f"{name} = {module}{target}\n" for name, target in names.items())
                for group, names in groups.items()
            )
        )
        registry.forget_entry_points()
        sys.modules.pop(module, None)

    return install


def install_trainer(install, distribution, name, api=("1.0",)):
    groups = {"kepler.trainers": {name: f":{name}"}, "kepler.plugin_api": dict.fromkeys(api, "")}
    install(distribution, TRAINER.format(name=name), groups)


def set_variables(monkeypatch, **variables):
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    registry.forget_entry_points()


# --- settings that allow and deny plugins ---------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "loaded"),
    [
        ({}, {"A", "B"}),
        ({"KEPLER_DISABLE_PLUGIN_AUTOLOAD": "1"}, set()),
        ({"KEPLER_DISABLE_PLUGIN_AUTOLOAD": "0"}, {"A", "B"}),
        ({"KEPLER_DISABLE_PLUGIN_AUTOLOAD": "1", "KEPLER_PLUGINS_ALLOW": "dist-a"}, {"A"}),
        ({"KEPLER_PLUGINS_ALLOW": "Dist_A"}, {"A"}),
        ({"KEPLER_PLUGINS_ALLOW": "dist-a, dist-b:B"}, {"A", "B"}),
        ({"KEPLER_PLUGINS_ALLOW": "dist-b:C"}, set()),
        ({"KEPLER_PLUGINS_ALLOW": "dist-*"}, {"A", "B"}),
        ({"KEPLER_PLUGINS_DENY": "dist-a"}, {"B"}),
        ({"KEPLER_PLUGINS_DENY": "dist-b:B"}, {"A"}),
        ({"KEPLER_PLUGINS_ALLOW": "dist-a dist-b", "KEPLER_PLUGINS_DENY": "dist-b"}, {"A"}),
    ],
)
def test_allow_and_deny(site, monkeypatch, variables, loaded):
    install_trainer(site, "dist-a", "A")
    install_trainer(site, "dist-b", "B")
    set_variables(monkeypatch, **variables)
    assert {"A", "B"} & set(registry.trainers.names()) == loaded
    # kepler-core's own plugins can be loaded even if no setting allows them
    assert "LinearRegressionTrainer" in registry.trainers.names()
    for name in {"A", "B"} - loaded:
        with pytest.raises(PluginError, match="turned off: KEPLER_") as error:
            registry.trainers.get(name)
        assert f"dist-{name.lower()} 2.0" in str(error.value)
        # a plugin that is turned off does not count as broken
        assert not [b for b in registry.trainers.load_all()[1] if b.entry.name == name]


def test_a_built_in_plugin_can_be_denied(monkeypatch):
    set_variables(monkeypatch, KEPLER_PLUGINS_DENY="kepler-core:SVRRegressorTrainer")
    assert "SVRRegressorTrainer" not in registry.trainers.names()
    with pytest.raises(PluginError, match="turned off"):
        registry.trainers.get("SVRRegressorTrainer")


def test_denying_one_side_of_a_clash_resolves_it(site, monkeypatch):
    install_trainer(site, "dist-a", "LinearRegressionTrainer")
    with pytest.raises(PluginError, match="stands for several"):
        registry.trainers.get("LinearRegressionTrainer")
    set_variables(monkeypatch, KEPLER_PLUGINS_DENY="dist-a")
    assert registry.trainers.entry("LinearRegressionTrainer").distribution == "kepler-core"


def test_a_listener_that_is_turned_off_is_not_reported(site, monkeypatch, caplog):
    source = "from kepler_core.plugins.hooks import hookimpl\n@hookimpl\ndef kepler_training_started(models): 1 / 0\n"
    site("dist-hook", source, {"kepler.hooks": {"h": ""}})
    assert "dist-hook:h" in Hooks().listeners()
    set_variables(monkeypatch, KEPLER_PLUGINS_DENY="dist-hook")
    hooks = Hooks()
    assert "dist-hook:h" not in hooks.listeners()
    assert "dist-hook:h" not in hooks.broken
    assert caplog.text == ""
    (entry,) = [entry for entry in hook_entries() if entry.distribution == "dist-hook"]
    assert entry.turned_off


def test_settings_come_from_the_configuration_folder_too(site, monkeypatch, tmp_path):
    install_trainer(site, "dist-a", "A")
    folder = tmp_path / "config"
    folder.mkdir()
    (folder / "KEPLER_PLUGINS_DENY").write_text("dist-a\n")
    set_variables(monkeypatch, CONFIG_PATH=str(folder))
    assert "A" not in registry.trainers.names()
    set_variables(monkeypatch, KEPLER_PLUGINS_DENY="other")  # the environment takes precedence
    assert "A" in registry.trainers.names()


# --- plugin API versions --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "declared", "message"),
    [
        ((1, 0), ["1.0"], ""),
        ((1, 4), ["1.0"], ""),
        ((1, 4), ["1.4"], ""),
        ((1, 4), ["1.5"], "update kepler-core"),
        ((2, 0), ["1.0"], "look for a newer version of the plugin"),
        ((2, 0), ["1.3", "2.0"], ""),
        ((2, 1), ["1.3", "3.0"], "was written for plugin API 1.3 and 3.0"),
        ((1, 0), ["1"], "is not a version"),
        ((1, 0), ["newest"], "is not a version"),
    ],
)
def test_api_ranges(monkeypatch, ours, declared, message):
    monkeypatch.setattr(plugin_entries, "PLUGIN_API", ours)
    assert message in api_problem(declared)
    assert (api_problem(declared) == "") == (message == "")


def test_an_incompatible_plugin_is_named_and_not_imported(site):
    site(
        "dist-new",
        "raise SystemExit('imported')",
        {"kepler.trainers": {"N": ":N"}, "kepler.plugin_api": {"99.0": ""}},
    )
    with pytest.raises(PluginError, match=r"dist-new 2\.0\): was written for plugin API 99\.0; .* update kepler-core"):
        registry.trainers.get("N")
    assert "dist_new" not in sys.modules
    (broken,) = [b for b in registry.trainers.load_all()[1] if b.entry.name == "N"]
    assert "99.0" in broken.reason


def test_an_incompatible_listener_is_named_and_not_imported(site, caplog):
    site("dist-new", "raise SystemExit('imported')", {"kepler.hooks": {"h": ""}, "kepler.plugin_api": {"99.0": ""}})
    hooks = Hooks()
    assert "was written for plugin API 99.0" in hooks.broken["dist-new:h"]
    assert "dist-new:h" in caplog.text
    assert "dist_new" not in sys.modules


def test_an_incompatible_plugin_does_not_clash(site):
    install_trainer(site, "dist-new", "LinearRegressionTrainer", api=("99.0",))
    assert registry.trainers.entry("LinearRegressionTrainer").distribution == "kepler-core"


# --- the scan of the metadata ---------------------------------------------------------------------


def test_the_metadata_is_scanned_once_a_process(monkeypatch):
    scans = []
    distributions = importlib.metadata.distributions

    def counted(**keywords):
        scans.append(1)
        return distributions(**keywords)

    monkeypatch.setattr(importlib.metadata, "distributions", counted)
    registry.forget_entry_points()
    for plugins in registry.REGISTRIES.values():
        assert plugins.names()
        plugins.canonical(plugins.names()[0])
    hook_entries()
    Hooks()
    assert len(scans) == 1


def test_a_distribution_that_is_installed_twice_counts_once(site, tmp_path, monkeypatch):
    install_trainer(site, "dist-a", "A")
    older = tmp_path / "older"
    info = older / "dist_a-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: Dist_A\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[kepler.trainers]\nA = dist_a:A\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(older)])
    registry.forget_entry_points()
    # Version 2.0 is first on sys.path, so Python imports this version.
    assert registry.trainers.entry("A").version == "2.0"


# --- missing distributions and modules ------------------------------------------------------------


def test_a_missing_distribution_is_reported_with_the_pip_command():
    with pytest.raises(UnknownPluginError, match="kepler-trainer-x is not installed: pip install kepler-trainer-x"):
        registry.trainers.get("kepler-trainer-x:XTrainer")


@pytest.mark.parametrize(
    ("requires", "command"),
    [
        ("not-there-at-all >= 2", "pip install 'not-there-at-all >= 2'"),
        ('not-there-at-all ; extra == "fast"', r"pip install 'dist-needs\[fast\]'"),
    ],
)
def test_a_missing_module_is_reported_with_the_pip_command(site, tmp_path, requires, command):
    site("dist-needs", "import not_there_at_all", {"kepler.trainers": {"Needs": ":Needs"}})
    metadata = tmp_path / "site" / "dist_needs-2.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text() + f"Requires-Dist: {requires}\n")
    with pytest.raises(PluginError, match=command):
        registry.trainers.get("Needs")


# --- plugins that break their contract or the process ---------------------------------------------

METER = """
import os
from kepler_core.contracts import EnergySource

class Meter(EnergySource):
    "A meter."
    components, sent_as, reads = {attributes}
"""


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ('("package"), "acpi", ("mine",)', "components is 'package', not tuple[str, ...]"),
        ('("platform",), "acpi", ["mine"]', "reads is ['mine'], not tuple[str, ...]"),
        ('("platform",), None, ("mine",)', "sent_as is None, not str"),
    ],
)
def test_attributes_of_another_type_break_the_contract_but_no_recording(site, small, attributes, message):
    groups = {"kepler.energy_sources": {"meter": ":Meter"}, "kepler.plugin_api": {"1.0": ""}}
    site("bad-meter", METER.format(attributes=attributes), groups)
    with pytest.raises(PluginError, match=r"from bad-meter 2\.0") as error:
        registry.energy_sources.get("meter")
    assert message in str(error.value)
    assert "rapl-sysfs" in observe([read_recording(small)]).sources


def test_an_exit_at_the_import_is_reported(site):
    site("bad-exit", "import os\nos._exit(7)\n", {"kepler.trainers": {"Ends": ":Ends"}})
    (entry,) = [entry for entry in registry.trainers.installed if entry.name == "Ends"]
    (result,) = probe_plugins([entry], checks=False)
    assert result.problem == "ends the process that imports it (exit code 7)"


def test_a_crash_at_the_import_is_reported(site):
    site("bad-crash", "import os\nos.kill(os.getpid(), 9)\n", {"kepler.trainers": {"Crash": ":Crash"}})
    (entry,) = [entry for entry in registry.trainers.installed if entry.name == "Crash"]
    (result,) = probe_plugins([entry], checks=True)
    assert result.problem == "ends the process that imports it (signal 9)"


def test_an_import_that_hangs_is_reported(site):
    site("bad-hang", "import time\ntime.sleep(600)\n", {"kepler.trainers": {"Hang": ":Hang"}})
    (entry,) = [entry for entry in registry.trainers.installed if entry.name == "Hang"]
    (result,) = probe_plugins([entry], checks=False, timeout=2)
    assert result.problem == "does not end within 2 s"


@pytest.mark.parametrize(
    "content",
    [
        b"[kepler.trainers]\nFooTrainer foo:Foo\nnosection\n",
        b"[unrelated]\nname = caf\xe9:x\n",
    ],
    ids=["no equals sign", "not UTF-8"],
)
def test_a_broken_entry_points_file_concerns_its_own_distribution_only(tmp_path: Path, content: bytes) -> None:
    """Commands work although a distribution's entry points are damaged, and report the name of the distribution."""
    folder = tmp_path / "foo_bar-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: foo-bar\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_bytes(content)
    listed = kepler_process("plugins", "list", sites=(tmp_path,), cwd=tmp_path)
    assert "LinearRegressionTrainer" in listed.stdout
    doctor = kepler_process("plugins", "doctor", "foo-bar", sites=(tmp_path,), cwd=tmp_path, code=3)
    assert "foo-bar" in doctor.stdout
    assert "its entry_points.txt cannot be read" in doctor.stdout
    assert "Traceback" not in listed.stderr + doctor.stderr
