"""The plugin API changes only with its version."""

from __future__ import annotations

import json

import pytest
from support.plugin_api import WRITTEN, contract, flat

from kepler_core.contracts import PLUGIN_API


def needed_step(before: dict[str, str], now: dict[str, str]) -> str:
    """ "none", "minor" (only added) or "major", from one flat contract to the other."""
    if before == now:
        return "none"
    gone = [line for line in before if line not in now]
    changed = [line for line in before if line in now and before[line] != now[line]]
    # a new abstract method or a new attribute without a default breaks those who do not have it
    demanded = [line for line in now if line not in before and ".abstract." in line]
    return "major" if gone or changed or demanded else "minor"


def test_the_contract_is_what_was_written_down_for_its_version():
    written = json.loads(WRITTEN.read_text())
    before, now = flat(written["contract"]), flat(contract())
    step = needed_step(before, now)
    differences = {
        "gone": sorted(set(before) - set(now)),
        "new": sorted(set(now) - set(before)),
        "changed": sorted(line for line in before if line in now and before[line] != now[line]),
    }
    assert written["version"] == list(PLUGIN_API), (
        f"PLUGIN_API is {PLUGIN_API}, plugin_api.json was written for {written['version']}: "
        "run python tests/support/plugin_api.py"
    )
    assert step == "none", (
        f"the plugin API has changed, which takes a {step} step of PLUGIN_API in kepler_core/contracts.py; "
        f"then run python tests/support/plugin_api.py: {differences}"
    )


@pytest.mark.parametrize(
    ("change", "step"),
    [
        (lambda c: None, "none"),
        (lambda c: c["events"].update(kepler_new=["x"]), "minor"),
        (lambda c: c["events"]["kepler_model_trained"].append("extra"), "minor"),
        (lambda c: c["events"].pop("kepler_model_trained"), "major"),
        (lambda c: c["events"].update(kepler_model_trained=["models"]), "major"),
        (lambda c: c["classes"]["Trainer"]["methods"].update(helper="(self)"), "minor"),
        (lambda c: c["classes"]["Trainer"]["abstract"].append("helper"), "major"),
        (lambda c: c["classes"]["Trainer"]["methods"].update(regressor="(self)"), "major"),
        (lambda c: c["values"]["FitTask"].pop("seed"), "major"),
        (lambda c: c["values"]["FitTask"].update(more="int (optional)"), "minor"),
        (lambda c: c["namespaces"].pop("kepler.trainers"), "major"),
    ],
)
def test_a_change_is_noticed_and_weighed(change, step):
    changed = json.loads(json.dumps(contract()))
    change(changed)
    assert needed_step(flat(contract()), flat(changed)) == step
