"""Give names to machines that have the same node label. The names contain labels that differ between the machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kepler_core.recording.metric_mapping import EXPORTER_LABELS


def differing_labels(machines: Sequence[Sequence[Mapping[str, str]]], labels: Sequence[str]) -> list[str]:
    """Return labels whose values together distinguish all machines.

    The series of a machine form groups with equal labels. `machines` has for each machine the labels of each group.

    The labels are tried one after the other, and a label is chosen if it tells more machines apart. Labels with a
    single value in each machine are tried first, and `EXPORTER_LABELS` after other labels.
    """
    strong = [label for label in labels if label not in EXPORTER_LABELS]
    weak = [label for label in EXPORTER_LABELS if label in labels]
    constant = [
        label for label in (*strong, *weak) if all(len({group[label] for group in groups}) == 1 for groups in machines)
    ]
    rest = [label for label in (*strong, *weak) if label not in constant]
    chosen: list[str] = []
    distinct = 1
    for label in (*constant, *rest):
        n = len({tuple(groups[0][name] for name in (*chosen, label)) for groups in machines})
        if n > distinct:
            chosen.append(label)
            distinct = n
    return chosen


def machine_name(node: str, labels: Mapping[str, str], differing: Sequence[str], aliases: Sequence[str]) -> str:
    """Return a name for a node that has the same node label as other nodes. The name contains the differing labels."""
    alias = next((labels[name] for name in aliases if name in differing and labels[name]), None)
    others = [name for name in differing if alias is None or name not in aliases]
    words = [f"{name}={labels[name]}" if labels[name] else f"no {name}" for name in others]
    base = node if alias is None else alias
    return f"{base} ({', '.join(words)})".strip() if words else base
