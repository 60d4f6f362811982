"""Counters and gauges of a machine in files of /proc, other than its CPU time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from kepler_core.kernel_files import unsigned

Counters = dict[tuple[str, str], int]
"""Values of counters by feature and device. The device is "" for a feature that has no devices."""

SECTOR_BYTES = 512
"""Size of a sector in /proc/diskstats, in bytes. It is the same for all disks."""
_BYTES_PER_KIB = 1024
_READ_SECTORS, _WRITTEN_SECTORS = 5, 9
_RECEIVED_BYTES, _SENT_BYTES = 0, 8
_SOFT_IRQS = {b"BLOCK:": "bpf_block_irq", b"NET_RX:": "bpf_net_rx_irq", b"NET_TX:": "bpf_net_tx_irq"}
"""Rows of /proc/softirqs. Kepler counts the same interrupts for each process, and names them bpf_…_irq."""
MAX_DEVICES = 4096
_NAME_CHARACTERS = 64

# Names of devices that are not disks, and of devices whose data are stored on other disks and counted there.
_NOT_A_DISK = re.compile(r"(?:loop|ram|zram|dm-|md|sr|fd|nullb)[0-9]|nvme[0-9]+c[0-9]+n")
# Names of whole disks, for systems without /sys/block.
_WHOLE_DISK = re.compile(r"(?:s|v|xv|h|das)d[a-z]+|nvme[0-9]+n[0-9]+|mmcblk[0-9]+|pmem[0-9]+|nbd[0-9]+|rbd[0-9]+")


def parse_diskstats(content: bytes, is_whole_disk: Callable[[str], bool]) -> Counters:
    """Return the bytes that whole disks have read and written. `is_whole_disk` gets the name of a device."""
    counters: Counters = {}
    for line in content.splitlines()[:MAX_DEVICES]:
        fields = line.split()
        if len(fields) <= _WRITTEN_SECTORS:
            continue
        name = fields[2][:_NAME_CHARACTERS].decode(errors="replace")
        read, written = unsigned(fields[_READ_SECTORS]), unsigned(fields[_WRITTEN_SECTORS])
        if read is None or written is None or _NOT_A_DISK.match(name) or not is_whole_disk(name):
            continue
        counters["disk_read_bytes", name] = read * SECTOR_BYTES
        counters["disk_written_bytes", name] = written * SECTOR_BYTES
    return counters


def is_name_of_whole_disk(name: str) -> bool:
    """Return whether a device with this name is a whole disk. This function is used if /sys/block cannot be read."""
    return _WHOLE_DISK.fullmatch(name) is not None


def parse_interfaces(content: bytes) -> Counters:
    """Return the bytes that all network interfaces except the loopback interface have received and sent."""
    counters: Counters = {}
    for line in content.splitlines()[:MAX_DEVICES]:
        name, separator, rest = line.rpartition(b":")
        fields = rest.split()
        label = name.strip()[:_NAME_CHARACTERS].decode(errors="replace")
        if not separator or label == "lo" or len(fields) <= _SENT_BYTES:
            continue
        received, sent = unsigned(fields[_RECEIVED_BYTES]), unsigned(fields[_SENT_BYTES])
        if received is not None and sent is not None:
            counters["network_received_bytes", label] = received
            counters["network_sent_bytes", label] = sent
    return counters


def parse_vmstat(content: bytes) -> Counters:
    """Return the number of page faults of all processes."""
    for line in content.splitlines():
        name, _, rest = line.partition(b" ")
        if name == b"pgfault" and (faults := unsigned(rest)) is not None:
            return {("page_faults", ""): faults}
    return {}


def parse_softirqs(content: bytes) -> Counters:
    """Return the software interrupts of disks and networks by CPU. The first line names the CPUs of the columns."""
    counters: Counters = {}
    lines = content.splitlines()
    columns = [name.decode(errors="replace") for name in lines[0].split()] if lines else []
    for line in lines[1:]:
        fields = line.split()
        feature = _SOFT_IRQS.get(fields[0]) if fields else None
        if feature is not None:
            for column, field in zip(columns, fields[1:], strict=False):
                if (value := unsigned(field)) is not None:
                    counters[feature, column] = value
    return counters


def memory_used_bytes(content: bytes) -> float | None:
    """Return MemTotal − MemAvailable in bytes, from the content of /proc/meminfo.

    Return None if one of these values is missing, or if MemAvailable is larger than MemTotal.
    """
    kib: dict[bytes, int] = {}
    for line in content.splitlines():
        name, _, rest = line.partition(b":")
        if name in (b"MemTotal", b"MemAvailable") and (value := unsigned(rest.removesuffix(b" kB"))) is not None:
            kib[name] = value
    if len(kib) < 2 or kib[b"MemAvailable"] > kib[b"MemTotal"]:
        return None
    return float((kib[b"MemTotal"] - kib[b"MemAvailable"]) * _BYTES_PER_KIB)


def rates(earlier: Mapping[tuple[str, str], int], later: Counters, seconds: float) -> tuple[dict[str, float], set[str]]:
    """Return the increase per second of each feature, and the features with a counter that has fallen.

    The increases of all devices that are in `earlier` and in `later` are added up. A feature with a fallen counter has
    no rate, because the counter has started again at 0 at an unknown moment.
    """
    sums: dict[str, int] = {}
    fallen = set()
    for (feature, device), value in later.items():
        before = earlier.get((feature, device))
        if before is None:
            continue
        if value < before:
            fallen.add(feature)
        sums[feature] = sums.get(feature, 0) + value - before
    return {feature: total / seconds for feature, total in sums.items() if feature not in fallen}, fallen


def mean_frequency_hertz(contents: Iterable[bytes]) -> float | None:
    """Return the mean clock frequency of CPUs in Hz; None if no file has a value.

    `contents` are the contents of the files scaling_cur_freq of the CPUs, in kHz.
    """
    clocks = [value for content in contents if (value := unsigned(content)) is not None and 0 < value < 10**8]
    return 1000.0 * sum(clocks) / len(clocks) if clocks else None
