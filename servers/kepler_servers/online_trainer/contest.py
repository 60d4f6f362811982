"""Champion and challenger: who is nearer to what was measured, on data that neither was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray, IntArray
from kepler_core.contracts import IsolationContext
from kepler_core.dataset import Dataset
from kepler_core.errors import PluginError
from kepler_core.grouping import sum_by
from kepler_core.models.power_model import PowerModel
from kepler_core.pipeline.plan import Plan, Wanted, datasets
from kepler_core.pipeline.spec import PipelineSpec
from kepler_core.pipeline.validation import score
from kepler_core.plugins import registry
from kepler_core.vocabulary import OutputType, main_feature
from kepler_servers.online_trainer.holdout import FEWEST_INSTANTS, HeldOut
from kepler_servers.online_trainer.noise import SURE, mean_and_error

SMALLEST_GAIN = 0.02
"""A challenger must be better by this part of the champion's error, however sure that is."""
BEYOND = 1.05
"""A feature that is so many times its highest in training is new to a model: the scale is that highest."""
COMPONENT_WORSE = 0.05
"""Of the champion's error of a component: so much worse a challenger may be there."""
WATTS = 0.1
MOST_EVERYWHERE = 2000
"""Instants, evenly spaced, on which a model is judged everywhere."""
IDLE_WATTS = 0.5
"""So much farther from the truth the mean at idle may be…"""
IDLE_OF_GAIN = 0.2
"""…or this part of the gain: half a watt at idle is no reason to keep a model that is five watts off."""


@attrs.frozen(eq=False)
class Judged:
    """A model on the newest data. An instant is a (node, timestamp); arrays are of shape (instants,),
    in order of time."""

    instants: tuple[tuple[str, float], ...]
    predicted: Mapping[str, FloatArray]
    """Component -> watts of the node (DynPower: summed over its containers)."""
    measured: Mapping[str, FloatArray]
    load: Mapping[str, FloatArray]
    beyond: BoolArray
    """Where a feature is higher than in all that the model was trained on."""

    def figures(self) -> dict[str, dict[str, float]]:
        """Component -> its mean absolute error and its error at idle, in watts."""
        found = {}
        for component, predicted in self.predicted.items():
            scored = score(predicted, self.measured[component], self.load[component])
            found[component] = {"mae": round(scored.mae, 3), "idle_error": round(scored.idle_error, 3)}
        return found

    def total(self) -> FloatArray:
        """The errors of all components, added up, per instant."""
        errors = [np.abs(p - self.measured[component]) for component, p in self.predicted.items()]
        return np.asarray(np.sum(errors, axis=0), dtype=np.float64)

    def only(self, wanted: set[tuple[str, float]]) -> Judged:
        """The same on some of the instants."""
        kept = np.array([instant in wanted for instant in self.instants], dtype=bool)

        def cut(columns: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
            return {component: values[kept] for component, values in columns.items()}

        instants = tuple(instant for instant, there in zip(self.instants, kept, strict=True) if there)
        return Judged(instants, cut(self.predicted), cut(self.measured), cut(self.load), self.beyond[kept])


@attrs.frozen
class Verdict:
    """Whether a challenger takes the champion's place, and why."""

    better: bool
    reason: str
    gain: float
    """By how many watts (all components added up) the challenger is better."""


class Judge:
    """Applies models to the newest of what the memory holds."""

    def __init__(self, context: IsolationContext, spec: PipelineSpec, held_out: HeldOut) -> None:
        """The context's observations are all there are (an isolator needs the quiet ones)."""
        self._context = context
        self._observations = context.observations
        self._spec = spec
        self._held_out = held_out
        self._datasets: dict[Wanted, Dataset | None] = {}

    def judge(
        self, model: PowerModel, source: str, output_type: OutputType, group: str, *, everywhere: bool = False
    ) -> Judged | None:
        """A model beside what was measured in the time that was held out (or `everywhere`); None where
        too little was."""
        there = self._observations.sources.get(source, ())
        components = [component for component in model.components if component in there]
        dataset = self._dataset((source, output_type, group, model.features))
        if dataset is None or not components:
            return None
        first = dataset.first_rows
        time = dataset.timestamps[first]
        newest = _evenly(len(time)) if everywhere else np.flatnonzero(self._held_out.covers(time))
        if len(newest) < FEWEST_INSTANTS:
            return None
        newest = newest[np.argsort(time[newest], kind="stable")]
        of_newest = np.isin(dataset.sample, newest)
        n = len(first)
        X = dataset.X[of_newest]
        instant = dataset.sample[of_newest]
        predicted = model.predict(X)
        index = dataset.index[first[newest]]
        nodes = index.get_level_values("node")

        def by_instant(values: FloatArray) -> FloatArray:
            return sum_by(values, instant, n)[newest]

        highest = BEYOND * model.scale
        higher = np.logical_or.reduce(highest < X, axis=1)
        mains = {c: dataset.features.index(main_feature(dataset.features, c)) for c in components}
        return Judged(
            tuple(zip(map(str, nodes), map(float, time[newest]), strict=True)),
            {c: by_instant(predicted[c]) for c in components},
            {c: by_instant(dataset.y(c)[of_newest]) for c in components},
            {c: by_instant(X[:, mains[c]]) for c in components},
            by_instant(higher.astype(np.float64)) > 0,
        )

    def _dataset(self, wanted: Wanted) -> Dataset | None:
        if wanted not in self._datasets:
            source, output_type, _, features = wanted
            known = set(self._observations.features)
            by_container = any(feature in self._observations.container_features for feature in features)
            usable = source in self._observations.sources and known.issuperset(features)
            self._datasets[wanted] = None
            if usable and (output_type == "AbsPower" or by_container):
                # as requests come: not smoothed, whatever the pipeline's extractor is
                extractor = registry.extractors.create("DefaultExtractor")
                isolator = registry.isolators.create(self._spec.isolator.name, self._spec.isolator.args)
                made = next(iter(datasets(extractor, isolator, Plan((wanted,), ()), self._context)))[1]
                self._datasets[wanted] = None if isinstance(made, PluginError) or made.frame.empty else made
        return self._datasets[wanted]


def _evenly(n: int) -> IntArray:
    return np.unique(np.linspace(0, n - 1, min(n, MOST_EVERYWHERE)).astype(np.int64))


def compare(champion: Judged, challenger: Judged) -> Verdict:
    """The verdict on the instants that both were judged on. The challenger must be better by more than
    noise over all components together, and worse nowhere by more than noise, idle included."""
    both = set(champion.instants) & set(challenger.instants)
    if len(both) < FEWEST_INSTANTS:
        return Verdict(False, f"only {len(both)} instants that both could be judged on", 0.0)
    champion, challenger = champion.only(both), challenger.only(both)
    components = [component for component in champion.predicted if component in challenger.predicted]
    if missing := [component for component in champion.predicted if component not in components]:
        return Verdict(False, f"it has no {', '.join(missing)}", 0.0)
    before = champion.total()
    gain, error = mean_and_error(before - challenger.total())
    new_to_champion = champion.beyond & ~challenger.beyond
    if new_to_champion.any() and (before - challenger.total())[new_to_champion].mean() > 0:
        # the machine does what the champion knows nothing of: its errors there are no noise to be waited out
        error = 0.0
    needed = max(SURE * error, SMALLEST_GAIN * float(before.mean()))
    shown = f"{float(before.mean()):.2f} W with the served model, {float(before.mean()) - gain:.2f} W with the new one"
    if not gain > needed:
        what = "no better" if gain <= 0 else "better by less than noise"
        return Verdict(False, f"{what} on {len(both)} new instants: {shown}, needed a gain of {needed:.2f} W", gain)
    for component in components:
        mine = np.abs(champion.predicted[component] - champion.measured[component])
        theirs = np.abs(challenger.predicted[component] - challenger.measured[component])
        worse, error = mean_and_error(theirs - mine)
        if worse > max(SURE * error, COMPONENT_WORSE * float(mine.mean()), WATTS):
            return Verdict(False, f"{component} is worse by {worse:.2f} W ({shown})", gain)
    was, now = champion.figures(), challenger.figures()
    for component in components:
        level = float(np.mean(champion.measured[component]))
        at_idle = abs(now[component]["idle_error"]) - abs(was[component]["idle_error"])
        if at_idle > max(IDLE_WATTS, SMALLEST_GAIN * level, IDLE_OF_GAIN * gain):
            return Verdict(False, f"{component} at idle is worse by {at_idle:.2f} W ({shown})", gain)
    return Verdict(True, f"better on {len(both)} new instants: {shown}", gain)


def described(judged: Judged | None) -> dict[str, Any] | None:
    """For the record of a decision."""
    return None if judged is None else {"instants": len(judged.instants), "components": judged.figures()}
