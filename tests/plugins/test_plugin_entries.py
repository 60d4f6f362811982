"""What is installed and what of it may be loaded: settings, API versions, single files, one scan."""

from __future__ import annotations

import importlib.metadata
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from kepler_core.errors import PluginError, UnknownPluginError, UsageError
from kepler_core.plugins import entries as plugin_entries
from kepler_core.plugins import registry
from kepler_core.plugins.entries import api_problem, exits_are_errors, installed, read_settings
from kepler_core.plugins.hooks import Events, hook_entries
from kepler_core.plugins.probe import import_entries
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
def scanned_anew(monkeypatch):
    for key in (plugin_entries.AUTOLOAD, plugin_entries.ALLOW, plugin_entries.DENY, plugin_entries.FOLDER):
        monkeypatch.delenv(key, raising=False)
    registry.forget_entry_points()
    yield
    monkeypatch.undo()
    registry.forget_entry_points()


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder on sys.path; `install(distribution, source, groups)` puts a distribution there."""
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


def trainer(install, distribution, name, api=("1.0",)):
    groups = {"kepler.trainers": {name: f":{name}"}, "kepler.plugin_api": dict.fromkeys(api, "")}
    install(distribution, TRAINER.format(name=name), groups)


def set_all(monkeypatch, **settings):
    for key, value in settings.items():
        monkeypatch.setenv(key, value)
    registry.forget_entry_points()


# --- which may be loaded --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "loaded"),
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
def test_allow_and_deny(site, monkeypatch, settings, loaded):
    trainer(site, "dist-a", "A")
    trainer(site, "dist-b", "B")
    set_all(monkeypatch, **settings)
    assert {"A", "B"} & set(registry.trainers.names()) == loaded
    # kepler-core's own need no permission
    assert "LinearRegressionTrainer" in registry.trainers.names()
    for name in {"A", "B"} - loaded:
        with pytest.raises(PluginError, match="turned off: KEPLER_") as error:
            registry.trainers.get(name)
        assert f"dist-{name.lower()} 2.0" in str(error.value)
        # somebody wished so: nothing is broken
        assert not [b for b in registry.trainers.load_all()[1] if b.entry.name == name]


def test_one_of_our_own_can_be_denied(monkeypatch):
    set_all(monkeypatch, KEPLER_PLUGINS_DENY="kepler-core:SVRRegressorTrainer")
    assert "SVRRegressorTrainer" not in registry.trainers.names()
    with pytest.raises(PluginError, match="turned off"):
        registry.trainers.get("SVRRegressorTrainer")


def test_denying_one_side_of_a_clash_resolves_it(site, monkeypatch):
    trainer(site, "dist-a", "LinearRegressionTrainer")
    with pytest.raises(PluginError, match="stands for several"):
        registry.trainers.get("LinearRegressionTrainer")
    set_all(monkeypatch, KEPLER_PLUGINS_DENY="dist-a")
    assert registry.trainers.entry("LinearRegressionTrainer").distribution == "kepler-core"


def test_a_listener_that_is_turned_off_is_silent(site, monkeypatch, caplog):
    source = "from kepler_core.plugins.hooks import hookimpl\n@hookimpl\ndef kepler_training_started(models): 1 / 0\n"
    site("dist-hook", source, {"kepler.hooks": {"h": ""}})
    assert "dist-hook:h" in Events().listeners()
    set_all(monkeypatch, KEPLER_PLUGINS_DENY="dist-hook")
    events = Events()
    assert "dist-hook:h" not in events.listeners()
    assert "dist-hook:h" not in events.broken
    assert caplog.text == ""
    (entry,) = [entry for entry in hook_entries() if entry.distribution == "dist-hook"]
    assert entry.turned_off


def test_settings_come_from_the_configuration_folder_too(site, monkeypatch, tmp_path):
    trainer(site, "dist-a", "A")
    folder = tmp_path / "config"
    folder.mkdir()
    (folder / "KEPLER_PLUGINS_DENY").write_text("dist-a\n")
    set_all(monkeypatch, CONFIG_PATH=str(folder))
    assert "A" not in registry.trainers.names()
    set_all(monkeypatch, KEPLER_PLUGINS_DENY="other")  # the environment goes before the folder
    assert "A" in registry.trainers.names()


# --- the plugin API -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "written_for", "said"),
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
def test_api_ranges(monkeypatch, ours, written_for, said):
    monkeypatch.setattr(plugin_entries, "PLUGIN_API", ours)
    assert said in api_problem(written_for)
    assert (api_problem(written_for) == "") == (said == "")


def test_an_incompatible_one_is_named_and_not_imported(site):
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
    events = Events()
    assert "was written for plugin API 99.0" in events.broken["dist-new:h"]
    assert "dist-new:h" in caplog.text
    assert "dist_new" not in sys.modules


def test_an_incompatible_one_does_not_clash(site):
    trainer(site, "dist-new", "LinearRegressionTrainer", api=("99.0",))
    assert registry.trainers.entry("LinearRegressionTrainer").distribution == "kepler-core"


# --- single files ---------------------------------------------------------------------------------


FILE = (
    TRAINER
    + """
ENTRY_POINTS = {{
    "kepler.plugin_api": ["1.0"],
    "kepler.trainers": {{"{name}": "{name}"}},
    "kepler.trainers.aliases": {{"of-a-file": "{name}"}},
}}
"""
)


def test_a_single_file_is_a_plugin(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(FILE.format(name="FileTrainer"))
    set_all(monkeypatch, KEPLER_PLUGIN_DIR=str(tmp_path))
    entry = registry.trainers.entry("of-a-file")
    assert entry.full_name == "mine.py:FileTrainer"
    assert installed().apis["mine.py"] == ("1.0",)
    assert "kepler_plugin_file_mine" not in sys.modules
    assert registry.trainers.get("mine.py:FileTrainer").__name__ == "FileTrainer"
    # who gives a folder has named what is in it, but a denial goes before all else
    set_all(monkeypatch, KEPLER_DISABLE_PLUGIN_AUTOLOAD="1")
    assert "FileTrainer" in registry.trainers.names()
    for word in ("mine.py", "mine.py:FileTrainer"):
        set_all(monkeypatch, KEPLER_PLUGINS_DENY=word)
        assert "FileTrainer" not in registry.trainers.names()
        # it is listed all the same, with the reason
        (entry,) = [entry for entry in registry.trainers.installed if entry.distribution == "mine.py"]
        assert entry.turned_off
    monkeypatch.delenv("KEPLER_PLUGINS_DENY")
    set_all(monkeypatch, KEPLER_PLUGINS_ALLOW="mine.py:FileTrainer")
    assert "FileTrainer" in registry.trainers.names()
    set_all(monkeypatch, KEPLER_PLUGINS_ALLOW="mine.py:Another")
    assert "FileTrainer" not in registry.trainers.names()
    # one that is denied may be broken
    (tmp_path / "mine.py").write_text("ENTRY_POINTS = {")
    set_all(monkeypatch, KEPLER_PLUGINS_DENY="mine.py")
    assert installed().unreadable[0].turned_off


def test_a_single_file_of_a_listener(tmp_path, monkeypatch):
    (tmp_path / "ear.py").write_text(
        "from kepler_core.plugins.hooks import hookimpl\n"
        'ENTRY_POINTS = {"kepler.hooks": {"ear": ""}}\nheard = []\n'
        "@hookimpl\ndef kepler_training_started(models): heard.append(models)\n"
    )
    set_all(monkeypatch, KEPLER_PLUGIN_DIR=str(tmp_path))
    Events(only="ear.py:ear").send("kepler_training_started", models=3)
    assert sys.modules["kepler_plugin_file_ear"].heard == [3]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("x = 1\n", "declares no ENTRY_POINTS"),
        ("ENTRY_POINTS = 5\n", "must be {group"),
        ("ENTRY_POINTS = {'trainers': {'A': 'A'}}\n", "'trainers' is no group"),
        ("ENTRY_POINTS = {'kepler.trainers': {'A': 5}}\n", "must be {group"),
        ("ENTRY_POINTS = {'kepler.trainers': make()}\n", "bad.py"),
        ("ENTRY_POINTS = {\n", "bad.py"),
        ("\0", "bad.py"),
    ],
)
def test_a_file_that_is_no_plugin_is_named_and_stops_nobody(tmp_path, monkeypatch, source, said):
    (tmp_path / "bad.py").write_text(source)
    (tmp_path / "good.py").write_text(FILE.format(name="GoodTrainer"))
    set_all(monkeypatch, KEPLER_PLUGIN_DIR=str(tmp_path))
    assert "GoodTrainer" in registry.trainers.names()
    (entry,) = installed().unreadable
    assert entry.distribution == "bad.py"
    assert said in entry.refused
    assert "\n" not in entry.refused
    with pytest.raises(UnknownPluginError, match=r"bad\.py is no plugin"):
        registry.trainers.get("BadTrainer")


def test_a_folder_that_is_not_there_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("KEPLER_PLUGIN_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match=r"KEPLER_PLUGIN_DIR: .* is no folder"):
        read_settings()


# --- scanning -------------------------------------------------------------------------------------


def test_what_is_installed_is_scanned_once_a_process(monkeypatch):
    scans = []
    real = importlib.metadata.distributions

    def counted(**more):
        scans.append(1)
        return real(**more)

    monkeypatch.setattr(importlib.metadata, "distributions", counted)
    registry.forget_entry_points()
    for found in registry.REGISTRIES.values():
        assert found.names()
        found.canonical(found.names()[0])
    hook_entries()
    Events()
    assert len(scans) == 1


def test_a_distribution_that_is_installed_twice_counts_once(site, tmp_path, monkeypatch):
    trainer(site, "dist-a", "A")
    older = tmp_path / "older"
    info = older / "dist_a-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: Dist_A\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[kepler.trainers]\nA = dist_a:A\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(older)])
    registry.forget_entry_points()
    assert registry.trainers.entry("A").version == "2.0"  # what is first on sys.path is what is imported


# --- what is missing ------------------------------------------------------------------------------


def test_a_distribution_that_is_not_installed_is_said_with_the_pip_command():
    with pytest.raises(UnknownPluginError, match="kepler-trainer-x is not installed: pip install kepler-trainer-x"):
        registry.trainers.get("kepler-trainer-x:XTrainer")


@pytest.mark.parametrize(
    ("requires", "command"),
    [
        ("not-there-at-all >= 2", "pip install 'not-there-at-all >= 2'"),
        ('not-there-at-all ; extra == "fast"', r"pip install 'dist-needs\[fast\]'"),
    ],
)
def test_a_module_that_is_missing_is_said_with_the_pip_command(site, tmp_path, requires, command):
    site("dist-needs", "import not_there_at_all", {"kepler.trainers": {"Needs": ":Needs"}})
    metadata = tmp_path / "site" / "dist_needs-2.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text() + f"Requires-Dist: {requires}\n")
    with pytest.raises(PluginError, match=command):
        registry.trainers.get("Needs")


# --- what breaks its contract, or the process -------------------------------------------------------

METER = """
import os
from kepler_core.contracts import EnergySource

class Meter(EnergySource):
    "A meter."
    components, sent_as, reads = {attributes}
"""


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ('("package"), "acpi", ("mine",)', "components is 'package', not tuple[str, ...]"),
        ('("platform",), "acpi", ["mine"]', "reads is ['mine'], not tuple[str, ...]"),
        ('("platform",), None, ("mine",)', "sent_as is None, not str"),
    ],
)
def test_attributes_of_another_kind_break_the_contract_and_no_recording(site, small, attributes, said):
    groups = {"kepler.energy_sources": {"meter": ":Meter"}, "kepler.plugin_api": {"1.0": ""}}
    site("bad-meter", METER.format(attributes=attributes), groups)
    with pytest.raises(PluginError, match=r"from bad-meter 2\.0") as error:
        registry.energy_sources.get("meter")
    assert said in str(error.value)
    assert "rapl-sysfs" in observe([read_recording(small)]).sources


def test_os_exit_at_the_import_is_an_error_and_elsewhere_it_is_not(site):
    # a child that the import made, and its threads, end as they want to
    source = """
import os
child = os.fork()
if child == 0:
    os._exit(5)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
os._exit(7)
"""
    site("bad-exit", source, {"kepler.trainers": {"Ends": ":Ends"}})
    before = os._exit
    with pytest.raises(PluginError, match=r"from bad-exit 2\.0\): cannot be imported: SystemExit: 7"):
        registry.trainers.get("Ends")
    assert os._exit is before


def test_imports_in_several_threads_leave_os_exit_as_it_was():
    before = os._exit
    inside, done = threading.Barrier(2), threading.Event()

    def first():
        with exits_are_errors():
            inside.wait()
        done.set()

    def second():
        with exits_are_errors():
            inside.wait()
            done.wait()
            with exits_are_errors(), pytest.raises(SystemExit):  # the other thread's end changes nothing here
                os._exit(1)
            with pytest.raises(SystemExit):
                os._exit(2)

    with ThreadPoolExecutor(2) as threads:
        for future in [threads.submit(first), threads.submit(second)]:
            future.result()
    assert os._exit is before


def test_a_crash_at_the_import_is_survived_and_said_by_who_imports_elsewhere(site):
    site("bad-crash", "import os\nos.kill(os.getpid(), 9)\n", {"kepler.trainers": {"Crash": ":Crash"}})
    (entry,) = [entry for entry in registry.trainers.installed if entry.name == "Crash"]
    (found,) = import_entries([entry], checks=True)
    assert found.problem == "ends the process that imports it (signal 9)"


def test_an_import_that_hangs_is_given_up(site):
    site("bad-hang", "import time\ntime.sleep(600)\n", {"kepler.trainers": {"Hang": ":Hang"}})
    (entry,) = [entry for entry in registry.trainers.installed if entry.name == "Hang"]
    (found,) = import_entries([entry], checks=False, timeout=2)
    assert found.problem == "does not end within 2 s"
