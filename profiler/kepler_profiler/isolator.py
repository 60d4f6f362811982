"""The isolator `profile`: subtracts the idle power of the node type's profile."""

from __future__ import annotations

import attrs
import numpy as np
import pandas as pd

from kepler_core.arrays import BoolArray, FloatArray
from kepler_core.containers import container_rows
from kepler_core.contracts import IsolationContext, Isolator
from kepler_core.dataset import Dataset, power_column
from kepler_profiler.profile.choice import chosen_profile
from kepler_profiler.profile.document import NodeProfile, ProfileError, read_profile

CONTRADICTED_PART = 0.05
"""The isolator adds a note if measured power is below the idle power at more than this fraction of the timestamps."""
REFUSED_PART = 0.5
"""The profile is rejected if measured power is below the idle power at more than this fraction of the timestamps.

Such a profile cannot belong to the measured machine.
"""


class ProfileBackgroundIsolator(Isolator):
    """Subtracts the idle power of the node type's profile and the power of background containers.

    Background containers are the containers that ran in the recording of the idle machine. The isolator uses the
    first of these profiles that exists:

    1. a profile that it builds from the recording of the idle machine (`train --idle`)
    2. the profile that `--profile` names
    3. the profile in the store
    4. a profile that it builds from the times with the lowest load in the recordings of the training

    A profile with a measured idle power is always preferred to a profile with only an upper bound of the idle power.
    The profile that is used is also published with the pipeline. The training fails if the profile does not have the
    idle power of each component.
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
        background_rows = container_rows(dataset, context.observations, names)
        for component in dataset.components:
            column = power_column(component)
            watts, idle = measured[column].to_numpy(), power[component].idle
            below = watts < idle - max(power[component].idle_spread, 0.01 * idle)
            contradiction = (
                f"{component}: measured power is below the profile's idle power of {idle:.1f} W at "
                f"{int(below.sum())} of {len(watts)} timestamps (lowest {watts.min():.1f} W)"
            )
            if below.mean() > REFUSED_PART:
                raise ProfileError(f"{contradiction}: the profile is of another machine")
            if below.mean() > CONTRADICTED_PART:
                notes.append(f"{contradiction}: dynamic power is 0 there")
            flat = np.minimum(idle, watts)
            background[column] = flat + (watts - flat) * _background_part(dataset, component, background_rows, watts)
        if background_rows.all():
            raise ProfileError("all containers also ran in the idle recording: nothing is left to train on")
        if names:
            notes.append(_background_note(dataset, background_rows))
        return attrs.evolve(dataset.isolated(background, background_rows), notes=tuple(notes))


def _profile(context: IsolationContext) -> NodeProfile:
    if context.applying and context.profile is not None:
        return read_profile(context.profile, "the profile")
    return chosen_profile(context.observations, context.idle, context.machine_spec, context.profile)


def _background_part(dataset: Dataset, component: str, background_rows: BoolArray, watts: FloatArray) -> FloatArray:
    """Return the share of background containers in a component's power at each sample, in [0, 1]."""
    rows = np.where(background_rows, dataset.y(component), 0.0)
    sums = np.bincount(dataset.sample, weights=rows, minlength=len(watts))
    return np.clip(np.divide(sums, watts, out=np.zeros(len(watts)), where=watts > 0), 0.0, 1.0)


def _background_note(dataset: Dataset, background_rows: BoolArray) -> str:
    codes = np.asarray(dataset.index.codes[3])
    return f"{len(np.unique(codes[background_rows]))} of {len(np.unique(codes))} containers are background"
