"""Checks of energy sources."""

from __future__ import annotations

import numpy as np

from kepler_core.plugins import registry
from kepler_core.recording import observe, read_recording
from kepler_core.simulate import Simulation, recording
from kepler_core.testing.checks import CheckFunction, Subject, require
from kepler_core.vocabulary import COMPONENTS


def measures_known_components(subject: Subject) -> None:
    """Check that `components` is a tuple of components of `kepler_core.vocabulary`."""
    components = subject.plugin.components
    require(
        isinstance(components, tuple) and components,
        f'components is {components!r}; write a tuple, e.g. components = ("package", "dram")',
    )
    unknown = [component for component in components if component not in COMPONENTS]
    require(not unknown, f"components: {unknown} are none of {', '.join(COMPONENTS)}")
    require(len(set(components)) == len(components), "components: the same component occurs twice")


def has_a_name_on_the_wire(subject: Subject) -> None:
    """Check that `sent_as` is set: the name of the energy source in Kepler's requests for models."""
    sent_as = subject.plugin.sent_as
    require(
        isinstance(sent_as, str) and sent_as.strip() == sent_as and sent_as,
        f'sent_as is {sent_as!r}; write the name that Kepler uses, e.g. "intel_rapl" or "acpi"',
    )


def reads_labels(subject: Subject) -> None:
    """Check that `reads` is a tuple of strings: the values of the label `source` that mean this energy source."""
    reads = subject.plugin.reads
    require(
        isinstance(reads, tuple) and reads and all(isinstance(label, str) and label for label in reads),
        f'reads is {reads!r}; write a tuple of labels, e.g. reads = ("rapl-sysfs",)',
    )
    require(len(set(reads)) == len(reads), "reads: the same label occurs twice")


def reads_no_other_sources_labels(subject: Subject) -> None:
    """Check that no label value in `reads` is also in the `reads` of another installed energy source."""
    for name, other in registry.energy_sources.load_all()[0].items():
        if other is subject.plugin:
            continue
        shared = sorted(set(other.reads) & set(subject.plugin.reads))
        require(not shared, f"reads: {name} also reads {', '.join(shared)}; only one of them would get the samples")


def is_found_in_a_recording(subject: Subject) -> None:
    """Check that a series is read as power of this energy source if its label `source` has a value from `reads`.

    The check passes without testing anything if the energy source is not installed.
    """
    names = [name for name, other in registry.energy_sources.load_all()[0].items() if other is subject.plugin]
    if not names:
        return  # the energy source is not installed, so no recording is read with it
    content = recording(Simulation(containers=2, timestamps=20))
    label = subject.plugin.reads[0]
    for component in subject.plugin.components:
        for series in content[f"kepler_node_{component}_joules_total"]:
            series["metric"]["source"] = label
    observations = observe([read_recording(content, name="labelled")])
    for component in subject.plugin.components:
        watts = observations.power.get((names[0], component))
        require(
            watts is not None and np.isfinite(watts).any(),
            f"a recording with source={label!r} has no power of {names[0]} {component}",
        )


CHECKS: tuple[CheckFunction, ...] = (
    measures_known_components,
    has_a_name_on_the_wire,
    reads_labels,
    reads_no_other_sources_labels,
    is_found_in_a_recording,
)
