"""Advice on how the user can make the interval of this machine's watts narrower, and by how much."""

from __future__ import annotations

import attrs

from kepler_core.errors import MeterError
from kepler_core.metering import Power, Reading
from kepler_servers.meter.settings import MeterSettings
from kepler_servers.meter.sources.formula import FormulaSource
from kepler_servers.meter.sources.measured import ERRORS
from kepler_servers.meter.this_machine import ThisMachine

WORTHWHILE = 0.9
"""Advice is shown only if it would make the interval narrower than this fraction of its present width."""


def interval_percent(power: Power) -> float:
    """Return half the width of an interval, in percent of the watts; 0 if the power is 0 W."""
    return 50.0 * (power.upper - power.lower) / power.watts if power.watts > 0 else 0.0


def advice(reading: Reading, machine: ThisMachine, settings: MeterSettings) -> list[str]:
    """Return sentences that state what the user can do to get a narrower interval."""
    kind = reading.provenance.kind
    if kind == "measured":
        return []
    now = interval_percent(reading.power[reading.main])
    sentences = []
    if machine.virtual is not None:
        meter = 100 * ERRORS["package"]
        sentences.append(
            "Let the host provide the power of this virtual machine (`kepler-model serve meter --per-vm` or "
            f"`scaphandre qemu` on the host, or QEMU with rapl=on): "
            f"measured, about ± {meter:.0f} % instead of ± {now:.0f} %."
        )
    if kind == "formula":
        sentences += _facts(reading, machine, settings, now)
        if settings.store is None and settings.model_server is None:
            sentences.append(
                "Use a model that was trained on a metered machine of this type (--store or --model-server); "
                "`kepler-model store show` lists the intervals of its models."
            )
    return sentences


def _facts(reading: Reading, machine: ThisMachine, settings: MeterSettings, now: float) -> list[str]:
    """Return sentences that name the facts that would make the machine formula's interval narrower, the best first."""
    load = None if reading.observation is None else reading.observation.load
    sentences: list[tuple[float, str]] = []
    if load is None:
        return ["Run outside of the container, or with --root: the load of the machine is hidden here."]
    if machine.virtual is not None and len(machine.hosts) > 1:
        one = attrs.evolve(machine, hosts=machine.hosts[:1])
        width = _width(one, settings, load, settings.idle_watts.get("platform"))
        sentences.append(
            (width, "State the cloud instance type (--instance, e.g. m5.2xlarge), or its processor (--machine-spec)")
        )
    if "platform" not in settings.idle_watts and reading.idle is not None:
        known = _known_idle(machine)
        what = "of the host " if machine.virtual is not None else ""
        if known is not None:
            width = _width(machine, settings, load, known)
            sentences.append((width, f"State the idle power {what}(--idle-watts, e.g. from a plug meter)"))
    return [
        f"{sentence}: about ± {width:.0f} % instead of ± {now:.0f} %."
        for width, sentence in sorted(sentences)
        if 0 < width < WORTHWHILE * now
    ]


def _known_idle(machine: ThisMachine) -> float | None:
    """Return the idle power of the machine or its host by the machine formula; None if several hosts are possible."""
    if len(machine.hosts) != 1:
        return None
    physical = attrs.evolve(machine, virtual=None)
    try:
        return FormulaSource(physical).curve.at(0.0).watts
    except MeterError:
        return None


def _width(machine: ThisMachine, settings: MeterSettings, load: float, idle_watts: float | None) -> float:
    """Return half the width of the machine formula's interval, in percent of the watts; 0 if there is no estimate."""
    source = FormulaSource(machine, idle_watts=idle_watts, idle_share=settings.idle_share)
    try:
        return interval_percent(source.curve.at(load))
    except MeterError:
        return 0.0
