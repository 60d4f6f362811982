"""Tests of pipeline files: valid files are accepted, and invalid files are rejected with an error."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import attrs
import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kepler_core.errors import PipelineError
from kepler_core.pipeline import load_pipeline, shipped_pipelines
from kepler_core.pipeline.load import as_document, pipeline_from, to_yaml
from kepler_core.pipeline.plugins import used_plugins
from kepler_core.pipeline.spec import json_schema
from kepler_core.plugins import registry
from kepler_core.recording import observe, read_recording

GOOD = "abs_trainers: [LinearRegressionTrainer]\n"


def write(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", shipped_pipelines())
def test_shipped_pipelines_are_good(name: str) -> None:
    spec = load_pipeline(name)
    assert spec.name == name
    jsonschema.validate(yaml.safe_load(shipped_pipelines()[name].read_text()), json_schema())


def test_the_schema_of_stored_samples_may_be_uninstalled(small: dict[str, list[dict[str, Any]]]) -> None:
    """The plugins of a training can be listed even if the metric schema of stored samples is not installed any more."""
    observations = observe([read_recording(small, name="x")])
    spec = pipeline_from({"name": "mine", **yaml.safe_load(GOOD)}, "mine")
    plugins = used_plugins(spec, observations, ())
    assert {plugin["name"] for plugin in plugins} >= {"LinearRegressionTrainer", *observations.schemas}
    gone = attrs.evolve(observations, schemas=(*observations.schemas, "uninstalled"))
    assert used_plugins(spec, gone, ()) == plugins


def test_default_has_all_trainers_for_nodes_and_four_for_containers() -> None:
    spec = load_pipeline("default")
    # MachinePowerTrainer is for tables of machines of many kinds (`machines fit`), not for recordings
    assert {trainer.name for trainer in spec.abs_trainers} == set(registry.trainers.names()) - {"MachinePowerTrainer"}
    assert {trainer.name for trainer in spec.dyn_trainers} == {
        "GradientBoostingRegressorTrainer", "XgboostFitTrainer", "LinearRegressionTrainer", "SGDRegressorTrainer",
    }  # fmt: skip


def test_show_is_a_pipeline_that_gives_itself(tmp_path: Path) -> None:
    spec = load_pipeline("default", settings=["validation.folds=3", "seed=7"])
    again = load_pipeline(write(tmp_path, to_yaml(spec)))
    assert again == spec
    assert again.validation.folds == 3


def test_aliases_become_names(tmp_path: Path) -> None:
    spec = load_pipeline(write(tmp_path, GOOD + "isolator: min\nenergy_sources: [rapl]\nextractor: smooth\n"))
    assert (spec.isolator.name, spec.energy_sources, spec.extractor.name) == (
        "MinIdleIsolator",
        ["rapl-sysfs"],
        "SmoothExtractor",
    )
    assert spec.name == "mine"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("abs_trainers: [LinearRegresionTrainer]", ["abs_trainers[0]", "did you mean LinearRegressionTrainer"]),
        (GOOD + "isolator: mni", ["isolator", "unknown isolator 'mni'", "min"]),
        (GOOD + "validation: {fold: 3}", ["validation.fold", "unknown key", "folds"]),
        (GOOD + "validation: {folds: three}", ["validation.folds", "'three' is not a whole number"]),
        (GOOD + "validation: {folds: 1}", ["validation.folds", "below 2"]),
        (GOOD + "validation: {folds: 2.0}", ["validation.folds", "2.0 is not a whole number"]),
        (GOOD + "validation: {scheme: shuffled}", ["validation.scheme", "'blocks', 'last', 'recordings'"]),
        (GOOD + "validation: {last_fraction: 2}", ["validation.last_fraction", "between 0 and 1"]),
        (GOOD + "validation: 3", ["validation", "shape"]),
        (GOOD + "seed: '1'", ["seed", "'1' is not a whole number"]),
        (GOOD + "seed: yes", ["seed", "True is not a whole number"]),
        (GOOD + "sead: 1", ["sead", "unknown key", "seed"]),
        (GOOD + "energy_sources: [rappl]", ["energy_sources[0]", "did you mean rapl"]),
        (GOOD + "energy_sources: rapl", ["energy_sources", "'rapl'"]),
        (GOOD + "feature_groups: [CounterOnly, BfpOnly]", ["feature_groups", "[1]", "did you mean BPFOnly"]),
        (GOOD + "feature_groups: [ThirdParty]", ["feature_groups", "third_party"]),
        (GOOD + "name: ../../x", ["name", "'../../x'", "letters, digits"]),
        (GOOD + "extractor: {name: smooth, args: {windw: 3}}", ["extractor", "'windw'", "did you mean window"]),
        (GOOD + "extractor: {name: smooth, args: {window: long}}", ["window", "'long' is not a whole number"]),
        (GOOD + "extractor: {name: smooth, args: {window: 0}}", ["extractor.args.window", "must be at least 1, not 0"]),
        (GOOD + "extractor: {name: smooth, args: {windw: 3}}", ["extractor.args.windw"]),
        (GOOD + "extractor: {name: smooth, window: 3}", ["extractor", "'window'", "args"]),
        ("abs_trainers: [{name: KNeighborsRegressorTrainer, args: {n_neighbors: 2.5}}]", ["n_neighbors", "whole"]),
        ("abs_trainers: [svr, 3]", ["abs_trainers[1]", "3"]),
        ("abs_trainers: LinearRegressionTrainer", ["abs_trainers", "is not a list"]),
        ("abs_trainers: [LinearRegressionTrainer, LinearRegressionTrainer]", ["twice"]),
        ("description: nothing", ["names no trainer"]),
        ("- a list", ["mapping"]),
        ("a: [1, 2", ["line 2, column 1"]),
        ("seed: 1\nseed: 2", ["'seed' appears twice"]),
        ("1: 2", ["key 1 is not text"]),
        ("&a [*a]", ["nested too deeply"]),
        ("!!python/object/apply:os.system ['true']", ["line 1"]),
    ],
)
def test_errors_name_the_path(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(PipelineError) as caught:
        load_pipeline(write(tmp_path, text + "\n"))
    message = str(caught.value)
    assert "\n" not in message
    assert "mine.yaml" in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("validation.folds", "expected path=value"),
        ("name.x=1", "name has no keys"),
        ("abs_trainers.99=x", "not an index"),
        ("validation.folds=[", "not YAML"),
        ("validation.fold=3", "validation.fold: unknown key"),
    ],
)
def test_bad_settings(tmp_path: Path, setting: str, words: str) -> None:
    with pytest.raises(PipelineError, match=re.escape(words)):
        load_pipeline(write(tmp_path, GOOD + "name: mine\n"), settings=[setting])


def test_settings_reach_lists() -> None:
    spec = load_pipeline(
        "default", settings=["abs_trainers=[LinearRegressionTrainer]", "abs_trainers.0=SVRRegressorTrainer"]
    )
    assert [trainer.name for trainer in spec.abs_trainers] == ["SVRRegressorTrainer"]


def test_unknown_pipeline_has_close_match() -> None:
    with pytest.raises(PipelineError, match="did you mean default"):
        load_pipeline("defautl")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="No such file"):
        load_pipeline(str(tmp_path / "no.yaml"))
    binary = tmp_path / "b.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PipelineError, match="not UTF-8"):
        load_pipeline(str(binary))
    with pytest.raises(PipelineError, match="Is a directory"):
        load_pipeline(str(tmp_path) + "/")


def problem_of(document: dict[str, object]) -> str | None:
    try:
        pipeline_from(document, "here")
    except PipelineError as error:
        return str(error)
    return None


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda children: st.lists(children) | st.dictionaries(st.text(), children),
        max_leaves=20,
    )
)
def test_any_document_is_accepted_or_refused_in_one_line(value: object) -> None:
    document = {"name": "x", "abs_trainers": ["LinearRegressionTrainer"], "validation": value}
    for candidate in (document, {**document, "validation": {}, "isolator": value}, value):
        if not isinstance(candidate, dict):
            continue
        message = problem_of(candidate)
        assert message is None or (message.startswith("here: ") and "\n" not in message)


def test_schema_and_loader_agree(tmp_path: Path) -> None:
    schema = json_schema()
    document = as_document(load_pipeline("default"))
    jsonschema.validate(document, schema)
    for broken in ({**document, "sead": 1}, {**document, "seed": "1"}, {**document, "feature_groups": ["x"]}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, schema)
        with pytest.raises(PipelineError):
            pipeline_from(broken, "here")
