"""The data of the meter, and the contracts of its plugins: collectors and outputs.

The meter (`kepler-model serve meter`) tells other programs how much power this machine draws. Once per period:

    collectors ─► Observation ─► a power source ─► Reading ─► outputs

A collector measures features of this machine, a power source turns them into watts, and an output publishes the watts.
Only the meter adds up the watts to energy. So all outputs publish the same energy, and a change of the power source
does not change the energy counters.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

import attrs

from kepler_core.plugin import Plugin


@attrs.frozen
class Observation:
    """What the collectors measured in one period of time."""

    time: float
    """End of the period, in Unix seconds."""
    seconds: float
    """Length of the period in seconds, by a clock that never jumps."""
    features: Mapping[str, float]
    """Maps features (of `kepler_core.vocabulary`) to values; counters are rates per second. A feature that could not
    be measured is missing; its value is never 0 instead."""
    load: float | None = None
    """Fraction of the time of all CPUs in which they were busy, 0 to 1; None if it is not known."""
    steal: float | None = None
    """Fraction of the time of all CPUs (0 to 1) in which the host ran other work than this virtual machine."""
    problems: tuple[str, ...] = ()
    """Reasons why features are missing, one sentence each."""


@attrs.frozen
class Power:
    """A power in watts with its interval."""

    watts: float
    lower: float
    """Lower end of the 90 % interval in watts."""
    upper: float
    """Upper end of the 90 % interval in watts."""


@attrs.frozen
class Provenance:
    """Where the watts of a reading come from."""

    kind: Literal["measured", "model", "formula"]
    name: str
    """Name of the meter, the model or the formula, e.g. "powercap" or "base/AbsPower/…/BlendTrainer_1"."""
    version: str = ""
    """Version of the model or formula; empty for a meter."""
    description: str = ""
    """One sentence for people: what was measured or assumed."""

    @property
    def slug(self) -> str:
        """The kind, the name and the version as one text without spaces and slashes, so that it can be a file name."""
        words = f"{self.name}@{self.version}" if self.version else self.name
        safe = "".join(character if character.isalnum() or character in "._@-" else "-" for character in words)
        return f"kepler-core:{self.kind}:{safe}"[:120]


@attrs.frozen
class Reading:
    """The power of this machine in one period of time."""

    time: float
    """End of the period, in Unix seconds."""
    power: Mapping[str, Power]
    """Power by component. The components are those of `kepler_core.vocabulary.COMPONENTS`."""
    provenance: Provenance
    idle: Power | None = None
    """Power of the main component if the machine does nothing; None if it is not known."""
    full: Power | None = None
    """Power of the main component if all CPUs are busy; None if it is not known."""
    idle_share: Literal["reservation", "none", "all"] = "all"
    """The part of the host's idle power in a virtual machine's power. "reservation": the same fraction as the virtual
    machine has of the host's CPUs. "none": no idle power. "all": the whole idle power, because the machine is not
    virtual or its power is measured."""
    flags: tuple[str, ...] = ()
    """Reasons to doubt the watts: names of `kepler_core.honesty.flags.EXPLANATIONS`."""
    observation: Observation | None = None
    """The observation that the watts were estimated from; None for a meter."""
    is_whole_machine: bool = False
    """Whether the power of the component package is that of the whole machine: the meter publishes it as package,
    because most programs read no other component. If False, the components are what their names say."""

    @property
    def main(self) -> str:
        """The component that stands for the machine: platform if it is known, else package, else the first one."""
        return next((name for name in ("platform", "package") if name in self.power), next(iter(self.power)))


class Collector(Plugin, ABC):
    """Plugin that measures features of this machine, e.g. from /proc.

    The meter calls `open` once, then `collect` once per period, from one thread.
    """

    provides: ClassVar[tuple[str, ...]]
    """All features that the collector can measure. If several collectors measure a feature, the meter uses the first of
    these collectors in the setting `collectors`."""

    def open(self) -> None:
        """Prepare to collect. Raises `CollectorError` with the reason if the collector cannot measure this machine."""

    @abstractmethod
    def collect(self) -> Observation:
        """Return what was measured since the previous call; the first call returns an observation without features.

        This method must return within a few milliseconds. Raises `CollectorError` if nothing could be measured.
        """

    def close(self) -> None:
        """Free what `open` has acquired. The meter may call this method several times."""


class Output(Plugin, ABC):
    """Plugin that publishes the watts of this machine for other programs.

    The meter calls `open` once. Then it calls `write` or `withdraw` once per period, and `advance` every
    `advance_seconds`. All calls come from one thread and must return within a few milliseconds.
    """

    advance_seconds: ClassVar[float | None] = None
    """Interval in seconds at which the meter calls `advance`. If it is None, the meter never calls `advance`."""

    def restore(self) -> Mapping[str, float]:
        """Return the joules by component that an earlier process published last; empty if there are none.

        The meter continues its counters from these values, so that no counter falls. The meter calls this method before
        `open`.
        """
        return {}

    @abstractmethod
    def open(self) -> None:
        """Prepare to publish. Raises `OutputError` with the reason, e.g. if another process uses the same files."""

    @abstractmethod
    def write(self, reading: Reading, joules: Mapping[str, float]) -> None:
        """Publish a new reading. `joules` are the energy counters by component at this moment.

        Raises `OutputError` if the reading cannot be published; the meter then calls `write` again with the next
        reading.
        """

    @abstractmethod
    def withdraw(self, reason: str) -> None:
        """Publish that no watts are known now. No earlier value may remain that looks current."""

    def advance(self, joules: Mapping[str, float]) -> None:
        """Publish the energy counters by component between two readings."""

    def close(self) -> None:
        """Stop publishing, and leave no value behind that looks current.

        The meter may call this method several times.
        """
