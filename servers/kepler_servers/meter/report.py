"""The report of `kepler-model watts`, as text for people and as JSON for programs."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import attrs

from kepler_core.honesty.flags import EXPLANATIONS
from kepler_core.metering import Power, Reading
from kepler_servers.meter.this_machine import ThisMachine

WIDTH = 100
"""Maximum length of a line, unless the terminal is narrower."""
NARROWEST = 40
"""Minimum line length of the report, in characters. On narrower terminals, lines are not made shorter than this."""
BAR_CHARACTERS = 48
_LABEL_CHARACTERS = 11
_SUBJECTS = {"platform": "This machine draws", "package": "The processors of this machine draw"}
_KINDS = {
    "measured": "Measured.",
    "model": "Estimated by a model from what the machine does.",
    "formula": "Estimated from what the machine is and how busy it is.",
}
_COMPONENTS = {
    "platform": "whole machine", "package": "processors", "core": "cores", "uncore": "uncore", "dram": "memory",
}  # fmt: skip


@attrs.frozen
class Report:
    """The data that `kepler-model watts` shows."""

    reading: Reading
    machine: ThisMachine
    whole: Power | None
    """Estimated power of the whole machine if only its processors are measured; otherwise None."""
    load: float | None
    steal: float | None
    better: Sequence[str]
    """Sentences about what would make the watts more certain."""
    not_used: Sequence[str]
    """Sentences about why more trusted power sources are not used."""

    def lines(self, width: int = WIDTH) -> list[str]:
        """Return the report as lines of text for people.

        Lines have at most `width` characters, or at most `NARROWEST` characters if `width` is smaller.
        """
        reading = self.reading
        main = reading.power[reading.main]
        subject = _SUBJECTS.get(reading.main, f"The {_COMPONENTS[reading.main]} draw")
        if self.machine.virtual is not None and reading.main == "platform":
            subject = "This virtual machine draws"
        lines = [
            *_wrapped(f"{subject} {watts(main.watts)} (90 % interval: {_range(main)})", "", width),
            *_wrapped(_KINDS[reading.provenance.kind], "", width),
            "",
            *self._table(main, width),
            "",
            *self._scale(main, width),
            *_labelled("source", self._source(), width),
            *_labelled("machine", self.machine.description, width),
        ]
        if self.machine.virtual is not None:
            lines += _labelled("share", self._share(), width)
            lines += _labelled("virtual", self.machine.virtual, width)
        lines += _section("Reasons to doubt the watts", [EXPLANATIONS.get(flag, flag) for flag in reading.flags], width)
        lines += _section("What would make the watts more certain", self.better, width)
        lines += _section("More trusted sources that do not work here", self.not_used, width)
        return lines

    def document(self) -> dict[str, Any]:
        """Return the report as a dictionary that can be encoded as JSON."""
        reading = self.reading
        main = reading.power[reading.main]
        low, high = self.machine.shares
        return {
            "time": reading.time,
            "watts": main.watts,
            "lower": main.lower,
            "upper": main.upper,
            "level": 0.9,
            "component": reading.main,
            "power": {component: attrs.asdict(power) for component, power in reading.power.items()},
            "idle": None if reading.idle is None else attrs.asdict(reading.idle),
            "full": None if reading.full is None else attrs.asdict(reading.full),
            "whole_machine": None if self.whole is None else attrs.asdict(self.whole),
            "load": self.load,
            "steal": self.steal,
            "source": attrs.asdict(reading.provenance),
            "idle_share": reading.idle_share,
            "machine": {
                "spec": self.machine.spec.as_dict(),
                "description": self.machine.description,
                "virtual": self.machine.virtual,
                "instance": self.machine.instance,
                "share_of_host": None if self.machine.virtual is None else {"lowest": low, "highest": high},
            },
            "flags": {flag: EXPLANATIONS.get(flag, flag) for flag in reading.flags},
            "better": list(self.better),
            "not_used": list(self.not_used),
        }

    def line(self) -> str:
        """Return the reading as one line, for the option `--watch`."""
        main = self.reading.power[self.reading.main]
        load = "load  -  " if self.load is None else f"load {100 * self.load:3.0f} %"
        return f"{watts(main.watts):>8}  ({_range(main)})  {load}  {self.reading.provenance.name}"

    def _table(self, main: Power, width: int) -> list[str]:
        reading = self.reading
        rows: list[tuple[str, Power | None, str]] = [("idle", reading.idle, "")]
        load = "" if self.load is None else f"load {100 * self.load:.0f} %"
        if self.load is not None and self.machine.virtual is not None and self.steal is not None:
            load += f", {100 * self.steal:.0f} % taken by the host"
        rows.append(("now", main, load))
        rows.append(("full load", reading.full, ""))
        for component, power in reading.power.items():
            if component != reading.main:
                rows.append((_COMPONENTS[component], power, "now"))
        if self.whole is not None:
            rows.append(("at the plug", self.whole, "now, estimated by the machine formula"))
        known = [(label, power, remark) for label, power, remark in rows if power is not None]
        lines = []
        for label, power, remark in known:
            numbers = f"  {label:<14}{watts(power.watts):>8}   {_range(power):<18}"
            if len(numbers) + len(remark) <= width:
                lines.append((numbers + remark).rstrip())
            else:
                lines += [numbers.rstrip(), *_wrapped(remark, " " * 16, width)]
        return lines

    def _scale(self, main: Power, width: int) -> list[str]:
        """Draw the interval of the present power as text, on a scale that begins at 0 W.

        The scale ends at the upper end of this interval, or of the interval of the power at full load if that is
        higher.
        """
        end = max([main.upper, *(power.upper for power in (self.reading.full,) if power is not None)])
        if end <= 0:
            return []
        characters = min(BAR_CHARACTERS, width - len(f"  0 W  {watts(end)}"))
        low, here, high = (
            min(round(value / end * (characters - 1)), characters - 1) for value in (main.lower, main.watts, main.upper)
        )
        bar = ["·"] * characters
        bar[low : high + 1] = ["━"] * (high + 1 - low)
        bar[here] = "●"
        return [f"  0 W {''.join(bar)} {watts(end)}", ""]

    def _source(self) -> str:
        provenance = self.reading.provenance
        if provenance.kind == "formula":
            return f"machine formula, version {provenance.version}"
        return provenance.description or provenance.name

    def _share(self) -> str:
        low, high = self.machine.shares
        share = f"{100 * high:.1f} %" if high - low < 0.0005 else f"{100 * low:.1f} to {100 * high:.1f} %"
        if not self.machine.hosts:
            share = "an unknown part"
        idle = {
            "reservation": "the same part of the host's idle power",
            "none": "none of the host's idle power",
            "all": "the whole power that was measured for it",
        }[self.reading.idle_share]
        return f"{share} of the host's CPUs, and {idle}"


def watts(value: float) -> str:
    """Return watts as text: two decimals below 1 W, one decimal below 10 W, none above."""
    return f"{value:.2f} W" if value < 1 else f"{value:.1f} W" if value < 10 else f"{value:.0f} W"


def _range(power: Power) -> str:
    low, high = watts(power.lower).removesuffix(" W"), watts(power.upper)
    return f"{low} to {high}"


def _labelled(label: str, text: str, width: int) -> list[str]:
    return _wrapped(text, f"{label:<{_LABEL_CHARACTERS}}", width)


def _section(title: str, sentences: Sequence[str], width: int) -> list[str]:
    lines = [line for sentence in sentences for line in _wrapped(sentence, "  - ", width)]
    return ["", f"{title}:", *lines] if lines else []


def _wrapped(text: str, begin: str, width: int) -> list[str]:
    """Return a text in lines of at most `width` characters. The first line starts with `begin`."""
    return textwrap.wrap(
        text, width, initial_indent=begin, subsequent_indent=" " * len(begin), break_on_hyphens=False
    ) or [begin]
