"""The keys of a pipeline, in YAML files and in requests to the offline trainer."""

from __future__ import annotations

from typing import Any, Literal

import attrs
import msgspec

from kepler_core.errors import close_matches
from kepler_core.messages import quoted
from kepler_core.names import check_name
from kepler_core.strict import WrongFieldError
from kepler_core.vocabulary import FEATURES, GROUP_NAMES, THIRD_PARTY_GROUP, Target

MAX_THIRD_PARTY = 500
"""Maximum number of metrics in `third_party`. A stored model can have at most 1000 features."""


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
            raise WrongFieldError(f"unknown feature group {quoted(group)}; {hint}", attribute.name, index)
        if group in groups[:index]:
            raise WrongFieldError(f"{group} appears twice", attribute.name, index)
    if THIRD_PARTY_GROUP in groups and not spec.third_party:
        raise WrongFieldError(f"{THIRD_PARTY_GROUP} has no features: name them in the key third_party", attribute.name)


def _third_party(_: Any, attribute: Any, names: list[str]) -> None:
    if len(names) > MAX_THIRD_PARTY:
        raise WrongFieldError(f"more than {MAX_THIRD_PARTY} metrics", attribute.name)
    for index, name in enumerate(names):
        if name in FEATURES:
            message = f"{quoted(name)} is one of our own features; it is in the feature groups already"
            raise WrongFieldError(message, attribute.name, index)
        if name in names[:index]:
            raise WrongFieldError(f"{quoted(name)} appears twice", attribute.name, index)


def _vm_guests(spec: PipelineSpec, attribute: Any, guests: dict[str, str]) -> None:
    if guests and not spec.use_vm_metrics:
        raise WrongFieldError("this key needs use_vm_metrics: true", attribute.name)
    vms = list(guests.values())
    for guest, vm in guests.items():
        if not guest or not vm:
            raise WrongFieldError("a guest or the id of its virtual machine is empty", attribute.name, guest)
        if vms.count(vm) > 1:
            raise WrongFieldError(f"the virtual machine {quoted(vm)} belongs to two guests", attribute.name, guest)


@attrs.frozen
class PluginSpec:
    """A plugin's name and arguments. In YAML: the name alone, or `{name: ..., args: {...}}`."""

    name: str
    args: dict[str, Any] = attrs.field(factory=dict[str, Any])


@attrs.frozen
class ValidationSpec:
    """Settings of the validation, which measures a model's errors on held-out blocks of time or recordings.

    There is no scheme that shuffles rows: samples next to each other in time are nearly equal, so that errors
    on shuffled rows would be too small.
    """

    scheme: Literal["blocks", "last", "recordings", "nodes"] = "blocks"
    """Which data are held out in turn. blocks: contiguous blocks of time of each recording, with gaps around them.
    last: the end of each recording (only once). recordings: each node in each recording. nodes: groups of nodes; the
    nodes are divided into `folds` groups."""
    folds: int = attrs.field(default=5, validator=_at_least(2, 1000))
    block_seconds: float | None = attrs.field(default=None, validator=_at_least(1e-3))
    """Length of a block in seconds. If null, it is 120 s or 20 steps (sampling intervals), whichever is longer. If a
    recording would then have fewer than 3 blocks per fold, blocks are shorter, but at least 6 steps long."""
    gap_seconds: float | None = attrs.field(default=None, validator=_at_least(0))
    """Smallest time between training rows and test rows, in seconds. If null, it is a quarter of a block, but at
    least 2 steps (sampling intervals). The gap is never shorter than the time span that the extractor combines into
    one row (e.g. the window of SmoothExtractor)."""
    regimes: int = attrs.field(default=8, validator=_at_least(0, 100))
    """Largest number of regimes (kinds of work) that are held out one after the other, in addition to the scheme. Each
    regime needs one more fit of each model. 0 or 1: the error on held-out regimes is not measured."""
    last_fraction: float = attrs.field(default=0.3, validator=_fraction)
    """Fraction of each recording, at its end, that the scheme `last` holds out for the test."""


@attrs.frozen
class PipelineSpec:
    """All keys of a pipeline."""

    name: str = attrs.field(validator=_name)
    description: str = ""
    energy_sources: list[str] | Literal["auto"] = "auto"
    """Energy sources to train from; auto stands for all energy sources in the recordings."""
    feature_groups: list[str] | Literal["auto"] = attrs.field(default="auto", validator=_known_groups)
    """Feature groups to train models for; auto stands for all groups whose features are in the recordings."""
    third_party: list[str] = attrs.field(factory=list[str], validator=_third_party)
    """Metrics of other exporters to use as features, named as in the recording. These metrics form the feature
    group ThirdParty, and are added to WorkloadOnly and Full. Metrics whose name ends in _total are counters."""
    extractor: PluginSpec = PluginSpec("DefaultExtractor")
    isolator: PluginSpec = PluginSpec("MinIdleIsolator")
    abs_trainers: list[PluginSpec] = attrs.field(factory=list[PluginSpec])
    """Trainers of AbsPower models, which estimate the whole power of a node."""
    dyn_trainers: list[PluginSpec] = attrs.field(factory=list[PluginSpec])
    """Trainers of DynPower models, which estimate the power of a container."""
    target: Target = "machine"
    """What the watts of the training are. machine: the power of a whole machine, as a meter measures it. kepler,
    capacity and marginal: the part of a host's power that belongs to a virtual machine; `train --host --guest` sets the
    key."""
    use_vm_metrics: bool = False
    """Whether to train on the energy of virtual machines, and on usage of processes with the label job="vm"."""
    vm_guests: dict[str, str] = attrs.field(factory=dict[str, str], validator=_vm_guests)
    """Maps the label `instance` of a guest's exporter to the label `vm_id` of the guest's virtual machine on its host.
    These pairs join the usage that the guest's exporter reports with the energy that the host's exporter reports."""
    max_rows: int = attrs.field(default=2000, validator=_at_least(100))
    """Largest number of rows to fit a model on. If there are more, rows are chosen evenly over time and load."""
    max_test_rows: int = attrs.field(default=10000, validator=_at_least(100))
    """Approximate maximum number of rows of containers to test DynPower models on. If there are more rows, evenly
    spaced timestamps are chosen, at least 100. The models are tested on all containers at these timestamps."""
    keep_rows: int = attrs.field(default=1000, validator=_at_least(0, 2000))
    """Number of rows of the training that are stored in the pipeline, so that `kepler-model recalibrate` can fit its
    models to another machine or day. 0: no rows are stored. 1,000 rows of 15 features take 30 to 80 kB."""
    seed: int = attrs.field(default=0, validator=_at_least(0))
    """Seed of all random choices in the training."""
    validation: ValidationSpec = ValidationSpec()


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of pipeline files, generated from `PipelineSpec`."""
    schema = msgspec.json.schema(PipelineSpec)
    plugin = schema["$defs"]["PluginSpec"]
    plugin["additionalProperties"] = False
    schema["$defs"]["PluginSpec"] = {"anyOf": [{"type": "string"}, plugin]}
    for name in ("PipelineSpec", "ValidationSpec"):
        schema["$defs"][name]["additionalProperties"] = False
    del schema["$defs"]["PipelineSpec"]["required"]  # a file needs no `name`: its default is the file's name
    groups = schema["$defs"]["PipelineSpec"]["properties"]["feature_groups"]
    for choice in groups["anyOf"]:
        if choice.get("type") == "array":
            choice["items"] = {"enum": list(GROUP_NAMES)}
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "Kepler Core pipeline"
    return schema
