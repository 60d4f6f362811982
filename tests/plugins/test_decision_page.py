"""Test the page that shows a decision of the online trainer, for records with any content."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.html_page import check_self_contained

from kepler_plugins.report.decision import decision_page

RESULT: dict[str, Any] = {
    "instants": 60,
    "components": {"package": {"mae": 4.25, "idle_error": -0.5, "coverage": 0.55, "half_width": 6.0}},
}
BETTER: dict[str, Any] = {"package": {"mae": 1.5, "idle_error": 0.25, "coverage": 0.915, "half_width": 3.5}}
CANDIDATE: dict[str, Any] = {
    "path": "rapl-sysfs/AbsPower/CounterOnly/XTrainer_0",
    "kind": "retrained",
    "better": True,
    "reason": "better on 60 new samples",
    "gain": 2.75,
    "needed": 0.25,
    "served": RESULT,
    "new": {"instants": 60, "components": BETTER},
}
DECISION: dict[str, Any] = {
    "decision": "published",
    "time": "2026-11-29 06:00:00",
    "trigger": "drift",
    "version": 7,
    "reason": "1 retrained: better on 60 new samples",
    "instants": 400,
    "held_out": 60,
    "held_out_from": 1.7e9,
    "held_out_until": 1.7e9 + 600,
    "data_until": 1.7e9 + 600,
    "served_until": 1.7e9 - 7200,
    "node_type": 0,
    "models": [CANDIDATE],
    "observed": [
        {
            "source": "rapl-sysfs",
            "feature_group": "CounterOnly",
            "model": "XTrainer_0",
            "samples_outside": 0.25,
            "components": {
                "package": {"running_error": 5.5, "running_error_limit": 2.0, "interval_coverage": 0.6},
            },
        }
    ],
    "law_changes": [{"node": "n", "since": 1.7e9, "lines": {"rapl-sysfs.package": {"scale": 1.15, "offset": 0.0}}}],
}


def page(decision: dict[str, Any], earlier: list[Any] | None = None, samples: list[Any] | None = None) -> str:
    retraining = {"pipeline": "mine", "decision": decision, "earlier": earlier or [], "samples": samples or []}
    text = decision_page(retraining)
    check_self_contained(text)
    return text


def test_the_page_says_why_what_and_by_how_much() -> None:
    text = page(DECISION)
    assert "version 7 is published" in text
    assert "the running error of a served model exceeded its limit" in text
    assert "The largest gain is 2.75 W (sum of the components; more than 0.25 W was needed)" in text
    assert "55 % of the measured values of package are in the intervals of the served model and 92 %" in text
    assert "60 samples, from 2023-11-14 22:13:20 to 2023-11-14 22:23:20 UTC" in text
    assert "2.2 hours older than the newest sample now" in text
    assert '<tr class="bad"><td>rapl-sysfs/CounterOnly/XTrainer_0</td>' in text
    assert "1.150" in text


def test_the_last_decisions_are_listed_and_drawn() -> None:
    earlier = [DECISION | {"time": f"2026-11-2{day} 06:00:00", "decision": "kept aside"} for day in range(8)]
    text = page(DECISION, earlier)
    assert text.count("kept aside</td>") == 8
    assert "The last decisions" in text
    assert "hours since 2026-11-20 06:00:00 UTC" in text


def test_the_power_on_judged_samples_is_drawn() -> None:
    watts = np.linspace(50, 100, 60)
    samples = [
        {
            "path": CANDIDATE["path"],
            "kind": "retrained",
            "better": True,
            "node": ["n"] * 60,
            "time": 1.7e9 + 10.0 * np.arange(60),
            "measured": {"package": watts},
            "new": {"package": watts + 1},
            "served": {"package": watts + 4},
        }
    ]
    text = page(DECISION, samples=samples)
    assert "Power over time" in text
    assert "Predicted against measured power" in text
    assert "served: package" in text


def test_a_first_decision_has_no_champion() -> None:
    candidate = {**CANDIDATE, "served": None, "new": None, "needed": None, "gain": 0.0}
    text = page({"decision": "published", "trigger": "first models", "version": 1, "models": [candidate]})
    assert "no model was served for these machines yet" in text
    assert "No model was judged" in text


HOSTILE = "<script>alert(1)</script>&\"'"


@pytest.mark.parametrize(
    "change",
    [
        {"reason": HOSTILE, "trigger": HOSTILE, "decision": HOSTILE, "time": HOSTILE, "problem": HOSTILE},
        {"models": [{**CANDIDATE, "path": HOSTILE, "reason": HOSTILE, "kind": HOSTILE}]},
        {"models": [{"path": "p", "served": {"components": {HOSTILE: {"mae": 9e15}}}, "new": RESULT}]},
        {"observed": [{"source": HOSTILE, "model": HOSTILE, "components": {HOSTILE: {}}}]},
        {"law_changes": [{"node": HOSTILE, "since": 1e15, "lines": {HOSTILE: {"scale": "x"}}}, {"lines": [1]}]},
        {"held_out_from": -9e15, "held_out_until": 9e15, "served_until": -1.0},
        {"models": [{**CANDIDATE, "gain": float("nan"), "needed": float("inf")}], "seconds": float("nan")},
        {"models": [{**CANDIDATE, "path": f"p{number}"} for number in range(60)]},
    ],
)
def test_hostile_records_change_no_element(change: dict[str, Any]) -> None:
    text = page(DECISION | change, [DECISION | change])
    assert "<script>alert" not in text
    assert text.count("<script>") == 1


def test_malformed_earlier_decisions_are_left_out() -> None:
    text = page(DECISION, [{"decision": 1}, {"models": 3}, {}])
    assert text.count("drift</td>") == 1
