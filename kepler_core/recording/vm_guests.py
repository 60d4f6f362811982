"""Join the usage that a guest reports and the energy that its host reports for the guest's virtual machine.

The exporter in the guest reports the usage of the guest's processes. The exporter on the host reports the
energy of the virtual machine (`kepler_vm_*`). The metrics do not tell which guest runs in which virtual
machine, so the user names each guest and its virtual machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import numpy as np

from kepler_core.arrays import BoolArray
from kepler_core.messages import printable
from kepler_core.recording.counts import Counts
from kepler_core.recording.metric_mapping import Codes, MappedMetric, keep_series

_NAMED_CANDIDATES = 5
"""Number of candidates that a message names."""


def join_vm_guests(
    mapped: Sequence[MappedMetric], guests: Mapping[str, str], nodes: Codes, counts: Counts
) -> list[MappedMetric]:
    """Return the metrics of guests, each with the energy of its virtual machine.

    `guests` maps the node label of each guest to the `vm_id` of its virtual machine. Usage of other nodes and
    energy of other virtual machines are left out. A guest without usage, or whose virtual machine has no
    energy, is counted.
    """
    guest_of = {vm: nodes.code(guest) for guest, vm in guests.items()}
    wanted = np.array(sorted(guest_of.values()), dtype=np.int64)
    with_usage: set[int] = set()
    with_energy: set[int] = set()
    candidates = _candidates(mapped, nodes)
    joined: list[MappedMetric] = []
    for item in mapped:
        if item.mapping.level == "vm":
            guest = np.array([guest_of.get(_vm(labels), -1) for labels in item.metric.labels], dtype=np.int64)
            kept: BoolArray = guest >= 0
            item = keep_series(attrs.evolve(item, node=np.where(kept, guest, item.node)), kept)
            with_energy.update(item.node[item.metric.lengths > 0].tolist())
        else:
            item = keep_series(item, np.isin(item.node, wanted))
            if item.mapping.level == "process" and not item.third_party:
                with_usage.update(item.node[item.metric.lengths > 0].tolist())
        joined.append(item)
    for guest_name, vm in guests.items():
        code = nodes.code(guest_name)
        if code not in with_usage:
            counts.count("guests_without_vm", guest_name, 1, f"no usage of processes; guests: {_list(candidates[0])}")
        if code not in with_energy:
            counts.count("guests_without_vm", vm, 1, f"no energy; virtual machines: {_list(candidates[1])}")
    return joined


def count_unnamed_guests(mapped: Sequence[MappedMetric], nodes: Codes, counts: Counts) -> None:
    """Count the guests and the virtual machines of a recording. No node of this recording has usage and energy."""
    guests, vms = _candidates(mapped, nodes)
    hosts = {node for item in mapped if item.mapping.level == "vm" for node in item.node[item.metric.lengths > 0]}
    words = nodes.words
    guests = [guest for guest in guests if nodes.by_word[guest] not in hosts]
    with_both = any(
        item.mapping.level == "process" and item.metric.labels[at].get("job") == "vm" and item.node[at] in hosts
        for item in mapped
        for at in np.flatnonzero(item.metric.lengths)
    )
    if with_both or not guests or not vms:
        return
    for guest in guests:
        counts.count("guests_without_vm", guest, 1, f"guest {guest}; virtual machines: {_list(vms)}")
    host = min(words[node] for node in hosts)
    for vm in vms:
        counts.count("guests_without_vm", vm, 1, f"virtual machine on {host}; guests: {_list(guests)}")


def _candidates(mapped: Sequence[MappedMetric], nodes: Codes) -> tuple[list[str], list[str]]:
    """Return the node labels that have series of process usage, and the ids of virtual machines with energy series."""
    words = nodes.words
    guests: set[str] = set()
    vms: set[str] = set()
    for item in mapped:
        if item.third_party:
            continue
        for at in np.flatnonzero(item.metric.lengths).tolist():
            if item.mapping.level == "vm":
                vms.add(_vm(item.metric.labels[at]))
            elif item.mapping.level == "process":
                guests.add(words[item.node[at]])
    return sorted(guests), sorted(vms)


def _vm(labels: Mapping[str, str]) -> str:
    """Return the id of the virtual machine that a series belongs to; empty if the series has no such id."""
    return labels.get("vm_id", "")


def _list(names: Sequence[str]) -> str:
    """Return the first few items of a list of names as a text for messages."""
    shown = ", ".join(printable(name, 80) for name in names[:_NAMED_CANDIDATES])
    return (shown + (", …" if len(names) > _NAMED_CANDIDATES else "")) or "none"
