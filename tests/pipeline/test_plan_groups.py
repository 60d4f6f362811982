"""Tests that feature groups are trained without an optional feature if the recording lacks this feature."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.command import kepler

from kepler_core.vocabulary import FEATURE_GROUPS, GROUP_NAMES, REDUCED_GROUPS, group_features, reduced_group


def test_reduced_groups_have_all_features_but_the_optional_one() -> None:
    for group, reduced in REDUCED_GROUPS.items():
        assert set(FEATURE_GROUPS[group]) - set(group_features(reduced)) == {"bpf_page_cache_hit"}
        assert reduced in GROUP_NAMES


def test_only_optional_features_may_be_missing() -> None:
    assert reduced_group("Basic", ["bpf_page_cache_hit"]) == "BasicNoPageCache"
    assert reduced_group("Basic", ["bpf_page_cache_hit", "cache_miss"]) is None
    assert reduced_group("CounterOnly", ["cache_miss"]) is None


@pytest.mark.parametrize(
    ("groups", "trained"),
    [
        ("[Basic]", {"BasicNoPageCache"}),
        ("[BPFOnly]", {"CPUTime"}),
        ("[BPFOnly, CPUTime]", {"CPUTime"}),
        ("auto", {"CounterOnly", "CPUTime", "BPFIRQNoPageCache", "CounterIRQCombined", "BasicNoPageCache"}),
    ],
)
def test_a_recording_without_page_cache_hits(tmp_path: Path, recording: str, groups: str, trained: set[str]) -> None:
    (tmp_path / "mine.yaml").write_text(
        f"feature_groups: {groups}\nenergy_sources: [acpi]\nabs_trainers: [LinearRegressionTrainer]\n"
    )
    done = kepler("train", "mine.yaml", "-i", recording, "-s", "models", "--json", cwd=tmp_path)
    report: dict[str, Any] = json.loads(done.stdout)
    assert {model["feature_group"] for model in report["models"]} == trained


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the path of a recording without page cache hits and without an accelerator."""
    folder = tmp_path_factory.mktemp("recording")
    assert kepler("simulate", "-o", "all.json", "--minutes", "6", "--containers", "3", cwd=folder).returncode == 0
    document = json.loads((folder / "all.json").read_text())
    kept = {name: series for name, series in document.items() if "page_cache" not in name and "qat" not in name}
    assert len(kept) == len(document) - 2
    (folder / "part.json").write_text(json.dumps(kept))
    return str(folder / "part.json")
