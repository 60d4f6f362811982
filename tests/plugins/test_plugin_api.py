"""Tests that the plugin API does not change without a change of its version number."""

from __future__ import annotations

import json
import re

import pytest
from support.paths import ROOT
from support.plugin_api import SNAPSHOT, flat, public_api

from kepler_core.contracts import PLUGIN_API


def required_step(before: dict[str, str], now: dict[str, str]) -> str:
    """Return which part of the plugin API version must change: "none", "minor" (for additions only) or "major"."""
    if before == now:
        return "none"
    removed = [line for line in before if line not in now]
    changed = [line for line in before if line in now and before[line] != now[line]]
    # a new abstract method breaks the plugins that do not implement it
    abstract = [line for line in now if line not in before and ".abstract." in line]
    return "major" if removed or changed or abstract else "minor"


def test_the_api_equals_the_snapshot_of_its_version():
    snapshot = json.loads(SNAPSHOT.read_text())
    before, now = flat(snapshot["api"]), flat(public_api())
    step = required_step(before, now)
    differences = {
        "removed": sorted(set(before) - set(now)),
        "added": sorted(set(now) - set(before)),
        "changed": sorted(line for line in before if line in now and before[line] != now[line]),
    }
    assert snapshot["version"] == list(PLUGIN_API), (
        f"PLUGIN_API is {PLUGIN_API}, plugin_api.json was written for {snapshot['version']}: "
        "run python tests/support/plugin_api.py"
    )
    assert step == "none", (
        f"the plugin API has changed, which takes a {step} step of PLUGIN_API in kepler_core/contracts.py; "
        f"then run python tests/support/plugin_api.py: {differences}"
    )


@pytest.mark.parametrize(
    ("change", "step"),
    [
        (lambda api: None, "none"),
        (lambda api: api["hooks"].update(kepler_new=["x"]), "minor"),
        (lambda api: api["hooks"]["kepler_model_trained"].append("extra"), "minor"),
        (lambda api: api["hooks"].pop("kepler_model_trained"), "major"),
        (lambda api: api["hooks"].update(kepler_model_trained=["models"]), "major"),
        (lambda api: api["classes"]["Trainer"]["methods"].update(helper="(self)"), "minor"),
        (lambda api: api["classes"]["Trainer"]["abstract"].append("helper"), "major"),
        (lambda api: api["classes"]["Trainer"]["methods"].update(regressor="(self)"), "major"),
        (lambda api: api["values"]["FitTask"].pop("seed"), "major"),
        (lambda api: api["values"]["FitTask"].update(more="int (optional)"), "minor"),
        (lambda api: api["data"]["Dataset"].pop("frame"), "major"),
        (lambda api: api["data"]["Observations"].update(more="int"), "minor"),
        (lambda api: api["functions"].update(node_dataset="()"), "major"),
        (lambda api: api["testing"].remove("check_trainer"), "major"),
        (lambda api: api["namespaces"].pop("kepler.trainers"), "major"),
    ],
)
def test_a_change_takes_the_right_step(change, step):
    changed = json.loads(json.dumps(public_api()))
    change(changed)
    assert required_step(flat(public_api()), flat(changed)) == step


def test_the_page_for_authors_names_the_whole_api():
    page = (ROOT / "docs" / "plugins" / "what-a-plugin-may-import.md").read_text()
    words = {*re.findall(r"\w+", page), *re.findall(r"\w+\.\w+", page)}
    api = public_api()
    names = {*api["classes"], *api["values"], *api["data"], *api["functions"], *api["testing"]}
    assert names <= words
    for kind in ("Dataset", "Observations"):
        assert set(api["data"][kind]) <= words
