"""Hardware counters of all CPUs, by the system call perf_event_open.

The constants are those of Linux: include/uapi/linux/perf_event.h, and the tables of system calls of the architectures.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import struct
from collections.abc import Mapping, Sequence

import attrs

SYSTEM_CALLS = {
    "x86_64": 298, "aarch64": 241, "riscv64": 241, "loongarch64": 241, "ppc64le": 319, "s390x": 331, "i386": 336,
    "i686": 336, "armv7l": 364, "armv6l": 364,
}  # fmt: skip
"""Number of the system call perf_event_open, by the type of machine that `platform.machine` returns."""

HARDWARE = 0
"""Type of hardware events: PERF_TYPE_HARDWARE of Linux."""
COUNTERS = {"cpu_cycles": 0, "cpu_instructions": 1, "cache_miss": 3}
"""For each feature, the number of its hardware event: PERF_COUNT_HW_… of Linux."""

_ALL_PROCESSES = -1
_NO_GROUP = -1
_CLOSE_ON_EXEC = 8  # PERF_FLAG_FD_CLOEXEC
_ENABLED_TIME, _RUNNING_TIME, _GROUP = 1, 2, 8  # PERF_FORMAT_…
_ATTRIBUTE_BYTES = 64  # PERF_ATTR_SIZE_VER0, which every kernel accepts
_PMU_SHIFT = 32  # PERF_PMU_TYPE_SHIFT, since Linux 5.13
_HEAD_WORDS = 3


@attrs.frozen
class CpuCounts:
    """The values of the counters of one CPU."""

    enabled: int
    """Nanoseconds in which the CPU was online, since the counters were opened."""
    running: int
    """Nanoseconds in which the counters counted. This is less than `enabled` if other programs use counters too."""
    values: Mapping[str, int]


class CpuCounters:
    """The counters of one CPU. They form a group, so they count at the same times, and one call reads them all."""

    def __init__(self, cpu: int, events: Mapping[str, tuple[int, int]]) -> None:
        """Open the counters of a CPU.

        `events` has for each feature the type and the configuration of the event, as in `perf_event_attr`. Counters
        that this CPU does not have are left out. Raises `OSError` if no counter can be opened.
        """
        self._features: list[str] = []
        self._descriptors: list[int] = []
        problem: OSError | None = None
        for feature, (kind, configuration) in events.items():
            leader = self._descriptors[0] if self._descriptors else _NO_GROUP
            try:
                self._descriptors.append(_open(kind, configuration, cpu, leader))
                self._features.append(feature)
            except OSError as error:
                problem = problem or error
                if error.errno not in (errno.ENOENT, errno.EOPNOTSUPP, errno.EINVAL):
                    self.close()
                    raise
        if not self._descriptors:
            raise problem or OSError(errno.ENOENT, "no events")

    def read(self) -> CpuCounts | None:
        """Return the counters; None if the CPU is offline."""
        size = 8 * (_HEAD_WORDS + len(self._features))
        try:
            content = os.read(self._descriptors[0], size)
        except OSError:
            return None
        if len(content) < size:
            return None
        count, enabled, running, *values = struct.unpack(f"={size // 8}Q", content)
        if count != len(self._features):
            return None
        return CpuCounts(enabled, running, dict(zip(self._features, values, strict=True)))

    def close(self) -> None:
        """Close the counters. May be called several times."""
        for descriptor in self._descriptors:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self._descriptors = []


def hardware_events(features: Sequence[str], pmu: int | None) -> dict[str, tuple[int, int]]:
    """Return for each feature the type and the configuration of its event.

    Machines with several kinds of cores have a counter unit (PMU) for each kind. `pmu` is the type of the CPU's counter
    unit; None if all CPUs have the same unit.
    """
    high = 0 if pmu is None else pmu << _PMU_SHIFT
    return {feature: (HARDWARE, high | COUNTERS[feature]) for feature in features}


def _open(kind: int, configuration: int, cpu: int, leader: int) -> int:
    """Open a counter of all processes on a CPU, and return its descriptor. Raises `OSError`."""
    number = SYSTEM_CALLS.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"the system call is not known for {platform.machine()}")
    attributes = ctypes.create_string_buffer(_ATTRIBUTE_BYTES)
    read_format = _ENABLED_TIME | _RUNNING_TIME | _GROUP
    struct.pack_into("=IIQQQQQ", attributes, 0, kind, _ATTRIBUTE_BYTES, configuration, 0, 0, read_format, 0)
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    descriptor: int = call(
        ctypes.c_long(number),
        attributes,
        ctypes.c_int(_ALL_PROCESSES),
        ctypes.c_int(cpu),
        ctypes.c_int(leader),
        ctypes.c_ulong(_CLOSE_ON_EXEC),
    )
    if descriptor < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return descriptor
