"""The isolator that takes away what the node type's profile says."""

from __future__ import annotations

import attrs
import numpy as np
import pandas as pd

from kepler_core.arrays import BoolArray, FloatArray
from kepler_core.containers import container_rows
from kepler_core.contracts import IsolationContext, Isolator
from kepler_core.dataset import Dataset, power_column
from kepler_profiler.profile.document import NodeProfile, ProfileError, read_profile
from kepler_profiler.profile.stored import chosen_profile

CONTRADICTED_PART = 0.05
"""It is said when measured power is below the idle power at more than this part of the timestamps."""
REFUSED_PART = 0.5
"""With more than this part, the profile is of another machine."""


class ProfileBackgroundIsolator(Isolator):
    """Takes away the idle power of the node type's profile, and the power of background containers:
    those that ran in the recording of the idle machine.

    The profile is made of the idle recording where one is given (`train --idle`), else it is the one
    that is given (`--profile`) or in the store, else it is made of the recording's own quietest blocks;
    but one that knows the idle power goes before one with an upper bound of it. It is the profile that
    is published with the pipeline. Components that the machine's idle power is not known of are refused.
    """

    def isolate(self, dataset: Dataset, context: IsolationContext) -> Dataset:
        profile = _profile(context)
        power = profile.idle_power(dataset.source)
        if missing := [component for component in dataset.components if component not in power]:
            raise ProfileError(f"the profile has no idle power of {dataset.source} {', '.join(missing)}")
        notes = [*dataset.notes, *profile.notes]
        measured = dataset.node_power()
        background = pd.DataFrame(index=measured.index)
        names = context.background or frozenset(profile.background)
        taken = container_rows(dataset, context.observations, names)
        for component in dataset.components:
            column = power_column(component)
            watts, idle = measured[column].to_numpy(), power[component].idle
            below = watts < idle - max(power[component].idle_spread, 0.01 * idle)
            said = (
                f"{component}: measured power is below the profile's idle power of {idle:.1f} W at "
                f"{int(below.sum())} of {len(watts)} timestamps (lowest {watts.min():.1f} W)"
            )
            if below.mean() > REFUSED_PART:
                raise ProfileError(f"{said}: the profile is of another machine")
            if below.mean() > CONTRADICTED_PART:
                notes.append(f"{said}: dynamic power is 0 there")
            flat = np.minimum(idle, watts)
            background[column] = flat + (watts - flat) * _part(dataset, component, taken, watts)
        if taken.all():
            raise ProfileError("all containers of the recording ran in the idle one too: nothing is left to train on")
        if names:
            notes.append(_background_note(dataset, taken))
        return attrs.evolve(dataset.isolated(background, taken), notes=tuple(notes))


def _profile(context: IsolationContext) -> NodeProfile:
    if context.applying and context.profile is not None:
        return read_profile(context.profile, "the profile")
    return chosen_profile(context.observations, context.idle, context.machine_spec, context.profile)


def _part(dataset: Dataset, component: str, taken: BoolArray, watts: FloatArray) -> FloatArray:
    """Per instant, the background containers' part of a component's power, in [0, 1]."""
    rows = np.where(taken, dataset.y(component), 0.0)
    sums = np.bincount(dataset.sample, weights=rows, minlength=len(watts))
    return np.clip(np.divide(sums, watts, out=np.zeros(len(watts)), where=watts > 0), 0.0, 1.0)


def _background_note(dataset: Dataset, taken: BoolArray) -> str:
    codes = np.asarray(dataset.index.codes[3])
    return f"{len(np.unique(codes[taken]))} of {len(np.unique(codes))} containers are background"
