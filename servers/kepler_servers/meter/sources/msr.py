"""The power source that reads RAPL's energy counters from model-specific registers, for machines without powercap.

The numbers and units of the registers are from Intel's Software Developer's Manual, volume 4, and from AMD's Processor
Programming Reference.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import attrs

from kepler_core.errors import MeterError
from kepler_core.metering import Observation, Reading
from kepler_profiler.cpuinfo import cpu_list, parse_cpuinfo
from kepler_servers.meter.sources.energy_counter import EnergyCounter, watts_by_component
from kepler_servers.meter.sources.measured import measured_reading
from kepler_servers.meter.sources.power_source import Kind
from kepler_servers.meter.sources.powercap import RESCAN_SECONDS

MAX_SOCKETS = 64
_UNIT_SHIFT, _UNIT_MASK = 8, 0x1F
_COUNTER_MASK = 2**32 - 1
_MICROJOULES = 1e6
_DRAM_UNIT_JOULES = 2.0**-16
"""Unit of the DRAM counter of Intel servers. It differs from the unit in the processor's unit register."""
_DRAM_MODELS = frozenset({63, 79, 85, 106, 108, 143, 207})
"""Models of processor family 6 whose DRAM counter has the unit `_DRAM_UNIT_JOULES`: Haswell, Broadwell, Skylake, Ice
Lake, Sapphire Rapids and Emerald Rapids servers."""


@attrs.frozen
class _Registers:
    unit: int
    counters: dict[str, int]


_INTEL = _Registers(0x606, {"package": 0x611, "dram": 0x619})
_AMD = _Registers(0xC0010299, {"package": 0xC001029B})
_VENDORS = {"genuineintel": _INTEL, "authenticamd": _AMD, "hygongenuine": _AMD}


class MsrSource:
    """Power source that reads RAPL's energy counters from /dev/cpu/N/msr.

    Reading them needs root (CAP_SYS_RAWIO) and the kernel module msr.
    """

    kind: Kind = "measured"
    name = "msr"

    def __init__(self, root: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`root` is the folder that contains proc, sys and dev. `clock` returns monotonic seconds."""
        self._root = root
        self._clock = clock
        self._counters: list[EnergyCounter] = []
        self._descriptors: list[int] = []
        self._failure: MeterError | None = None
        self._retry_at = 0.0

    def read(self, observation: Observation) -> Reading | None:
        if not self._counters:
            self._try_to_open()
        watts, problems, waiting = watts_by_component(self._counters, self._clock())
        if problems:
            self.close()
        description = f"energy counters of the processors (RAPL), from registers of {len(self._descriptors)} sockets"
        return measured_reading(observation, watts, self.name, description, problems, waiting)

    def close(self) -> None:
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors, self._counters = [], []

    def _try_to_open(self) -> None:
        """Open the registers, at most once per minute after a failure, because an attempt takes long.

        Raises `MeterError`.
        """
        now = self._clock()
        if self._failure is not None and now < self._retry_at:
            raise self._failure
        self._failure, self._retry_at = None, now + RESCAN_SECONDS
        try:
            self._open()
        except MeterError as error:
            self._failure = error
        except OSError as error:
            self._failure = MeterError(self._reason(error))
        if self._failure is not None:
            self.close()
            raise self._failure

    def _open(self) -> None:
        """Open the registers of one CPU of each socket. Raises `OSError` or `MeterError`."""
        cpuinfo = parse_cpuinfo(_text(self._root / "proc/cpuinfo"))
        registers = _VENDORS.get(cpuinfo.first("vendor_id").casefold())
        if registers is None:
            raise MeterError("only processors of Intel and AMD have energy registers")
        has_dram = cpuinfo.first("cpu family") == "6" and cpuinfo.first("model") in map(str, _DRAM_MODELS)
        for cpu in self._cpus_of_sockets():
            path = self._root / f"dev/cpu/{cpu}/msr"
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self._descriptors.append(descriptor)
            unit = 0.5 ** ((_register(descriptor, registers.unit) >> _UNIT_SHIFT) & _UNIT_MASK)
            for component, number in registers.counters.items():
                if component == "package" or has_dram:
                    self._add(path, descriptor, component, number, _DRAM_UNIT_JOULES if component == "dram" else unit)

    def _add(self, path: Path, descriptor: int, component: str, number: int, unit: float) -> None:
        def read() -> int:
            try:
                return round((_register(descriptor, number) & _COUNTER_MASK) * unit * _MICROJOULES)
            except OSError as error:
                raise MeterError(f"{path}, register {number:#x}: {error.strerror or error}") from error

        span = round((_COUNTER_MASK + 1) * unit * _MICROJOULES)
        self._counters.append(EnergyCounter(f"{path}, register {number:#x},", component, read, range_microjoules=span))

    def _cpus_of_sockets(self) -> list[int]:
        """Return the first CPU of each socket."""
        folder = self._root / "sys/devices/system/cpu"
        first: dict[str, int] = {}
        for cpu in cpu_list(_text(folder / "online")):
            first.setdefault(_text(folder / f"cpu{cpu}/topology/physical_package_id"), cpu)
        if not first:
            raise MeterError(f"{folder / 'online'} lists no CPUs")
        return sorted(first.values())[:MAX_SOCKETS]

    def _reason(self, error: OSError) -> str:
        where = error.filename or self._root / "dev/cpu"
        if isinstance(error, FileNotFoundError):
            return f"{where} does not exist: load the kernel module msr (`modprobe msr`)"
        if isinstance(error, PermissionError):
            return f"{where} can only be read by root (CAP_SYS_RAWIO)"
        return f"{where}: this processor has no energy registers ({error.strerror or error})"


def _register(descriptor: int, number: int) -> int:
    """Return the value of a register. Raises `OSError`, e.g. if the processor does not have the register."""
    content = os.pread(descriptor, 8, number)
    if len(content) < 8:
        raise OSError(f"register {number:#x} cannot be read")
    return int.from_bytes(content, "little")


def _text(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(2**20).decode(errors="replace").strip()
    except OSError:
        return ""
