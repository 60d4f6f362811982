"""Apply the rules to each node of a recording."""

from __future__ import annotations

from kepler_core import kepler_names as names
from kepler_core.doctor.diagnosis import Diagnosis
from kepler_core.doctor.rules import RULES
from kepler_core.errors import RecordingError
from kepler_core.pairs.host_node import HostNode
from kepler_core.recording.columns import Recording

_OLD = "kepler_exporter_"
_OLD_CONTAINER = "kepler_container_joules_total"


def nodes_of(recording: Recording) -> list[HostNode]:
    """Return the nodes of a recording of Kepler 0.10 or later.

    Nodes are told apart by the label instance, because kepler_build_info has no other label for the node. Raises
    `RecordingError` if the recording has no metric of Kepler 0.10 or later.
    """
    instances: dict[str, None] = {}
    for name in (names.BUILD_INFO, names.NODE_JOULES, names.PROCESS_SECONDS, names.VM_JOULES):
        metric = recording.metrics.get(name)
        for labels in () if metric is None else metric.labels:
            instances.setdefault(labels.get("instance", ""))
    if not instances:
        old = any(
            name.startswith(_OLD) or name == _OLD_CONTAINER for name in (*recording.metrics, *recording.other_metrics)
        )
        hint = (
            "these are metrics of Kepler 0.9 or earlier: `kepler-model validate` checks them"
            if old
            else f"is this an exporter of Kepler? Expected e.g. {names.NODE_JOULES}"
        )
        raise RecordingError(f"no metric of Kepler 0.10 or later; {hint}", document=recording.name)
    return [HostNode(recording, {"instance": instance}) for instance in instances]


def examine(recording: Recording) -> list[Diagnosis]:
    """Return the problems that the rules find on each node, severe problems first."""
    nodes = nodes_of(recording)
    return [
        Diagnosis(rule.name, rule.severity, node.labels.get("instance", ""), found.seen, found.advice)
        for rule in RULES
        for node in nodes
        if (found := rule.check(node)) is not None
    ]
