"""The keys of a pipeline, in YAML files and in requests to the offline trainer."""

from __future__ import annotations

from typing import Any, Literal

import attrs
import msgspec

from kepler_core.errors import close_matches
from kepler_core.names import check_name
from kepler_core.strict import WrongFieldError
from kepler_core.vocabulary import FEATURES, GROUP_NAMES, THIRD_PARTY_GROUP


def _name(_: Any, attribute: Any, value: str) -> None:
    try:
        check_name(value)
    except ValueError as error:
        raise WrongFieldError(str(error), attribute.name) from None


def _at_least(least: float, most: float = 2.0**31) -> Any:
    def check(_: Any, attribute: Any, value: float | None) -> None:
        if value is not None and not value >= least:
            raise WrongFieldError(f"{value} is below {least:g}", attribute.name)
        if value is not None and not value <= most:
            raise WrongFieldError(f"{value} is above {most:g}", attribute.name)

    return check


def _fraction(_: Any, attribute: Any, value: float) -> None:
    if not 0 < value < 1:
        raise WrongFieldError(f"{value} is not between 0 and 1", attribute.name)


def _known_groups(spec: PipelineSpec, attribute: Any, groups: list[str] | str) -> None:
    if isinstance(groups, str):
        return
    for index, group in enumerate(groups):
        if group not in GROUP_NAMES:
            hint = close_matches(group, GROUP_NAMES)
            raise WrongFieldError(f"unknown feature group {group!r}; {hint}", attribute.name, index)
        if group in groups[:index]:
            raise WrongFieldError(f"{group} appears twice", attribute.name, index)
    if THIRD_PARTY_GROUP in groups and not spec.third_party:
        raise WrongFieldError(f"{THIRD_PARTY_GROUP} needs its features named in third_party", attribute.name)


def _third_party(_: Any, attribute: Any, names: list[str]) -> None:
    for index, name in enumerate(names):
        if name in FEATURES:
            message = f"{name!r} is one of our own features; it is in the feature groups already"
            raise WrongFieldError(message, attribute.name, index)
        if name in names[:index]:
            raise WrongFieldError(f"{name!r} appears twice", attribute.name, index)


@attrs.frozen
class PluginSpec:
    """A plugin's name and arguments. In YAML: the name alone, or `{name: ..., args: {...}}`."""

    name: str
    args: dict[str, Any] = attrs.field(factory=dict[str, Any])


@attrs.frozen
class ValidationSpec:
    """How errors are measured: on held-out blocks of time or recordings.

    Shuffled rows are not offered: samples next to each other in time are nearly copies.
    """

    scheme: Literal["blocks", "last", "recordings"] = "blocks"
    """blocks: contiguous blocks of time in turn, with a gap; last: the end of each recording;
    recordings: each recording (and node) in turn."""
    folds: int = attrs.field(default=5, validator=_at_least(2, 1000))
    block_seconds: float | None = attrs.field(default=None, validator=_at_least(1e-3))
    """Length of a block. null: 120 s or 20 steps, whichever is longer; shorter if a recording would have
    fewer than 3 blocks per fold, but at least 6 steps."""
    gap_seconds: float | None = attrs.field(default=None, validator=_at_least(0))
    """Distance in time between training and test rows. null: a quarter of a block, at least 2 steps. Always
    at least the extractor's memory (the window of SmoothExtractor)."""
    last_fraction: float = attrs.field(default=0.3, validator=_fraction)
    """Part of each recording, at its end, that the scheme `last` tests on."""


@attrs.frozen
class PipelineSpec:
    """All keys of a pipeline."""

    name: str = attrs.field(validator=_name)
    description: str = ""
    energy_sources: list[str] | Literal["auto"] = "auto"
    """auto: all sources that the data contains."""
    feature_groups: list[str] | Literal["auto"] = attrs.field(default="auto", validator=_known_groups)
    """auto: all groups whose features the data contains."""
    third_party: list[str] = attrs.field(factory=list[str], validator=_third_party)
    """Metrics of other exporters to use as features, named as in the recording. They form the group
    ThirdParty and are part of WorkloadOnly and Full. Names that end in _total are counters."""
    extractor: PluginSpec = PluginSpec("DefaultExtractor")
    isolator: PluginSpec = PluginSpec("MinIdleIsolator")
    abs_trainers: list[PluginSpec] = attrs.field(factory=list[PluginSpec])
    """Trainers of AbsPower models (a node's power)."""
    dyn_trainers: list[PluginSpec] = attrs.field(factory=list[PluginSpec])
    """Trainers of DynPower models (a container's power)."""
    use_vm_metrics: bool = False
    """Train on a virtual machine's process-level metrics (job="vm") and its energy."""
    max_rows: int = attrs.field(default=2000, validator=_at_least(100))
    """Largest number of rows to fit on. If there are more, rows are sampled evenly over time and load."""
    max_test_rows: int = attrs.field(default=10000, validator=_at_least(100))
    """Largest number of container rows to test DynPower models on. Timestamps are sampled evenly, as a whole,
    and at least 100 of them."""
    seed: int = attrs.field(default=0, validator=_at_least(0))
    """Seed of every random choice."""
    validation: ValidationSpec = ValidationSpec()


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of pipeline files, generated from these classes."""
    schema = msgspec.json.schema(PipelineSpec)
    plugin = schema["$defs"]["PluginSpec"]
    plugin["additionalProperties"] = False
    schema["$defs"]["PluginSpec"] = {"anyOf": [{"type": "string"}, plugin]}
    for name in ("PipelineSpec", "ValidationSpec"):
        schema["$defs"][name]["additionalProperties"] = False
    del schema["$defs"]["PipelineSpec"]["required"]  # `name` is optional in a file: its default is the file's name
    groups = schema["$defs"]["PipelineSpec"]["properties"]["feature_groups"]
    for choice in groups["anyOf"]:
        if choice.get("type") == "array":
            choice["items"] = {"enum": list(GROUP_NAMES)}
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "Kepler Core pipeline"
    return schema
