"""Checks of energy sources."""

from __future__ import annotations

import numpy as np

from kepler_core.contracts import EnergySource
from kepler_core.plugins import registry
from kepler_core.recording import observe, read_recording
from kepler_core.simulate import Simulation, recording
from kepler_core.testing.checks import Subject, check_of, require
from kepler_core.vocabulary import COMPONENTS


@check_of(EnergySource)
def measures_known_components(subject: Subject) -> None:
    """Components are words of our vocabulary."""
    components = subject.plugin.components
    require(
        isinstance(components, tuple) and components,
        f'components is {components!r}; write a tuple, e.g. components = ("package", "dram")',
    )
    unknown = [component for component in components if component not in COMPONENTS]
    require(not unknown, f"components: {unknown} are none of {', '.join(COMPONENTS)}")
    require(len(set(components)) == len(components), "components: one is named twice")


@check_of(EnergySource)
def has_a_name_on_the_wire(subject: Subject) -> None:
    """Kepler asks for models of a source by `sent_as`."""
    sent_as = subject.plugin.sent_as
    require(
        isinstance(sent_as, str) and sent_as.strip() == sent_as and sent_as,
        f'sent_as is {sent_as!r}; write the name that Kepler asks for, e.g. "intel_rapl" or "acpi"',
    )


@check_of(EnergySource)
def reads_labels(subject: Subject) -> None:
    """`reads` are the values of a recording's source label."""
    reads = subject.plugin.reads
    require(
        isinstance(reads, tuple) and reads and all(isinstance(word, str) and word for word in reads),
        f'reads is {reads!r}; write a tuple of labels, e.g. reads = ("rapl-sysfs",)',
    )
    require(len(set(reads)) == len(reads), "reads: a label is there twice")


@check_of(EnergySource)
def takes_nobodys_label(subject: Subject) -> None:
    """One label is one meter."""
    for name, other in registry.energy_sources.load_all()[0].items():
        if other is subject.plugin:
            continue
        both = sorted(set(other.reads) & set(subject.plugin.reads))
        require(not both, f"reads: {', '.join(both)} is read by {name}, too; only one of them would get the samples")


@check_of(EnergySource)
def is_found_in_a_recording(subject: Subject) -> None:
    """A recording with its label has its power, if it is installed."""
    installed = [n for n, other in registry.energy_sources.load_all()[0].items() if other is subject.plugin]
    if not installed:
        return  # given as a class that nothing names: recordings cannot know it
    content = recording(Simulation(containers=2, timestamps=20))
    label = subject.plugin.reads[0]
    for component in subject.plugin.components:
        for series in content[f"kepler_node_{component}_joules_total"]:
            series["metric"]["source"] = label
    seen = observe([read_recording(content, name="labelled")])
    for component in subject.plugin.components:
        watts = seen.power.get((installed[0], component))
        require(
            watts is not None and np.isfinite(watts).any(),
            f"a recording with source={label!r} has no power of {installed[0]} {component}",
        )
