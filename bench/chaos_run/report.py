"""The report of a chaos run: measured values and faults."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from chaos_run.ledger import Ledger
from chaos_run.processes import Life, Sampler, Server
from chaos_run.servers import OFFLINE_TRAINER

SHOWN_LIFE_SECONDS = 20.0
"""Processes that lived for fewer seconds are left out of the report's table."""
JUDGED_LIFE_SECONDS = 60.0
"""If a process lived for fewer seconds, the run does not check how its memory and open files grew."""
FLAT_SHARE, FLAT_MIB = 0.10, 8.0
FLAT_DESCRIPTORS = 8
ONNX_RUNTIME_MIB = 35.0
"""Memory, in MiB, that a process needs to load ONNX Runtime; 33 MiB were measured in the estimator."""
FLAT = (
    f"Flat means, for a life of at least {JUDGED_LIFE_SECONDS:.0f} s: VmRSS at the end is at most "
    f"{100 * FLAT_SHARE:.0f} % + {FLAT_MIB:.0f} MiB above VmRSS halfway, and, in a life that lasts until the hostile "
    f"clients have gone, the number of descriptors at the end is at most {FLAT_DESCRIPTORS} above the number at the "
    f"start. {ONNX_RUNTIME_MIB:.0f} MiB more are allowed if the process loaded ONNX Runtime in the second half of its "
    "life, because it got its first ONNX model then."
)
SILENCE_LIMIT_SECONDS = 30.0
"""Longest time, in seconds, for which a ready server may give no right answer. A longer time is a fault."""
ALLOWED_5XX = (503, 507)
"""5xx statuses that the documentation describes: 503 if a server is busy or stopping, 507 if the disk is full."""
_AVERAGED = 3

MUST_BE_ZERO = ("wrong answers", "acknowledged versions lost", "acknowledged jobs lost", "stored samples lost")


def life_row(life: Life, first: float, hostility_ended: float) -> dict[str, Any] | None:
    """Return the table row with the measured values of a process; None if the process lived too briefly."""
    samples = life.samples
    if len(samples) < 2 * _AVERAGED or samples[-1][0] - samples[0][0] < SHOWN_LIFE_SECONDS:
        return None
    middle = len(samples) // 2
    parts = (samples[:_AVERAGED], samples[middle - 1 : middle + 2], samples[-_AVERAGED:])
    memory = [statistics.median(kib for _, kib, _ in part) / 1024 for part in parts]
    descriptors = [statistics.median_low(number for _, _, number in part) for part in parts]
    seconds = samples[-1][0] - samples[0][0]
    until_the_end = samples[-_AVERAGED][0] > hostility_ended
    flat: bool | None = None
    if seconds >= JUDGED_LIFE_SECONDS:
        loaded = life.onnx_runtime_from is not None and life.onnx_runtime_from > samples[middle - 1][0]
        allowed_mib = FLAT_MIB + (ONNX_RUNTIME_MIB if loaded else 0)
        flat = memory[2] <= memory[1] * (1 + FLAT_SHARE) + allowed_mib
        flat = flat and (not until_the_end or descriptors[2] <= descriptors[0] + FLAT_DESCRIPTORS)
    return {
        "server": life.server,
        "process": "child" if life.of_child else "main",
        "from": round(samples[0][0] - first),
        "seconds": round(seconds),
        "memory_mib": [round(value, 1) for value in memory],
        "descriptors": descriptors,
        "flat": flat,
    }


def life_rows(
    servers: Iterable[Server], sampler: Sampler, ledger: Ledger, first: float, hostility_ended: float
) -> list[dict[str, Any]]:
    """Return the table rows of all processes that lived long enough.

    Record a fault for each process whose memory or number of file descriptors grew too much (`FLAT` has the limits).
    """
    lives = [life for server in servers for life in server.lives] + sampler.child_lives
    rows = []
    for life in sorted(lives, key=lambda life: (life.server, life.started)):
        row = life_row(life, first, hostility_ended)
        if row is None:
            continue
        if life.of_child and life.server == OFFLINE_TRAINER and _trains(row):
            row["flat"] = None  # the memory that a training process needs depends on its job
        if row["flat"] is False:
            ledger.fault("processes that are not flat", str(row))
        rows.append(row)
    return rows


def _trains(row: Mapping[str, Any]) -> bool:
    return bool(max(row["memory_mib"]) > 2 * min(row["memory_mib"]))


def check_statuses(ledger: Ledger, mounted: bool) -> None:
    """Record a fault for each kind of unexpected 5xx answer.

    `mounted` is true if the run's disk was a tmpfs. If it was not, the offline trainer may answer with any 5xx status.
    """
    for (server, who, status), number in sorted(ledger.statuses.items()):
        allowed = status in ALLOWED_5XX or (server == OFFLINE_TRAINER and not mounted)
        if status >= 500 and not allowed:
            ledger.fault("unexpected 5xx answers", f"{server}: {number} times status {status} to clients: {who}")


def silences(servers: Iterable[Server], ledger: Ledger) -> dict[str, dict[str, float]]:
    """Return how long each server gave no right answers. Record a fault if a ready server was silent for too long."""
    rows = {}
    for server in servers:
        silence = ledger.silence(server.name, server.down())
        if silence.unexplained > SILENCE_LIMIT_SECONDS:
            text = f"{server.name}: no right answer for {silence.unexplained:.0f} s, although its process was ready"
            ledger.fault("long silences", text)
        rows[server.name] = {
            "total_seconds": round(silence.total, 1),
            "longest_seconds": round(silence.longest, 1),
            "longest_while_ready_seconds": round(silence.unexplained, 1),
        }
    return rows


def text(result: Mapping[str, Any]) -> str:
    """Return the result of a chaos run as text with tables."""
    lines = [f"seed {result['seed']}, {result['minutes']:g} minutes, full disk: {result['disk']}", ""]
    lines += [f"{result['zeros'][name]:8d}  {name}" for name in MUST_BE_ZERO]
    lines += [f"{number:8d}  {name}" for name, number in result["counts"].items()]
    lines += ["", "requests of good clients", *(f"{n:8d}  {client}: {o}" for client, o, n in result["requests"])]
    lines += ["", "connections of hostile clients"]
    lines += [f"{number:8d}  {kind}" for kind, number in sorted(result["hostile_connections"].items())]
    lines += ["", "answers with status 5xx"]
    lines += [
        f"{n:8d}  {server}: {status} to clients: {who}"
        for server, who, status, n in result["statuses"]
        if status >= 500
    ] or ["       0"]
    lines += ["", "seconds without right answers:  total  longest  longest while the process was ready"]
    for server, row in result["without_answers"].items():
        longest = f"{row['longest_seconds']:8.1f} {row['longest_while_ready_seconds']:8.1f}"
        lines.append(f"{server:30} {row['total_seconds']:8.1f} {longest}")
    lines += ["", "server           process  from s  for s   VmRSS start, halfway, end (MiB)   descriptors      flat"]
    for row in result["processes"]:
        memory = " ".join(f"{value:9.1f}" for value in row["memory_mib"])
        descriptors = " ".join(f"{value:4d}" for value in row["descriptors"])
        flat = {True: "yes", False: "NO", None: "-"}[row["flat"]]
        lines.append(
            f"{row['server']:16} {row['process']:8} {row['from']:6d} {row['seconds']:6d}  {memory}   "
            f"{descriptors}   {flat}"
        )
    lines += [FLAT, ""]
    lines += [f"{number:8d}  {kind}" for kind, number in result["fault_kinds"].items()]
    lines += [f"FAULT {fault}" for fault in result["faults"]] or ["no faults"]
    return "\n".join(lines)
