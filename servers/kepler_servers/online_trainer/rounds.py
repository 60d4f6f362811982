"""One round after the other: fetch what is new, remember it, watch the served models, have them examined."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import attrs
import msgspec
import numpy as np
import pyarrow as pa

from kepler_core.errors import KeplerError, PrometheusError, StoreError
from kepler_core.pipeline.load import as_document
from kepler_core.plugins.hooks import events
from kepler_core.recording.preflight import utc
from kepler_core.store import Store
from kepler_servers.online_trainer.drift import DriftWatch
from kepler_servers.online_trainer.examination import MEMORY, Task
from kepler_servers.online_trainer.fetching import Source, slices
from kepler_servers.online_trainer.memory import TrainingMemory, TrainingMemoryError
from kepler_servers.process_group import SessionProcess

log = logging.getLogger(__name__)

FIRST_INSTANTS = 100
"""Instants before the first models are trained."""
DRIFT_INSTANTS = 60
"""New instants before a drift is answered: on these challengers are judged."""
LONGEST_REST = 2
"""Rounds until an examination that changed nothing is repeated, at most, while the drift lasts."""
_CLOCK_SLACK = 1.0


@attrs.frozen
class Pace:
    """When what is done; seconds, but for the counts."""

    interval: float = 300.0
    delay: float = 10.0
    """Samples are given so long to arrive."""
    backfill: float = 3600.0
    """How far back the first round looks."""
    catch_up: float = 6 * 3600.0
    """How far back a round looks after a longer absence."""
    retrain_after: int = 200
    """New instants after which all is trained anew."""
    jobs: int = 1
    """Fits at a time."""
    training_seconds: float = 3600.0
    """An examination that takes longer is ended."""


@attrs.define
class Status:
    """What is said of the trainer, by `/healthz` and `/metrics`; replaced or counted up, never cleared."""

    started: float = attrs.field(factory=time.time)
    rounds: Counter[str] = attrs.field(factory=Counter)
    """By outcome."""
    problems: Counter[str] = attrs.field(factory=Counter)
    """By kind."""
    problem: str | None = None
    """Of the last round."""
    last_success: float | None = None
    """Unix time."""
    lag: float | None = None
    """Seconds from the newest data in the memory to the server's clock."""
    instants: Counter[str] = attrs.field(factory=Counter)
    decisions: Counter[str] = attrs.field(factory=Counter)
    last_decision: dict[str, Any] | None = None
    law_changes: int = 0
    memory: dict[str, int] = attrs.field(factory=dict)
    """Node -> instants."""
    memory_bytes: int = 0
    damaged_files: int = 0
    """Of the memory; they were set aside."""
    gone: dict[str, float] = attrs.field(factory=dict)
    """Node -> seconds since its newest instant, of nodes that others are far ahead of."""
    seconds: dict[str, float] = attrs.field(factory=dict)
    """What the last round took."""


class Rounds:
    """The trainer's loop. `round` may also be called by itself."""

    def __init__(
        self,
        source: Source,
        store: Store,
        state: Path,
        pace: Pace,
        *,
        memory: TrainingMemory,
        machine_spec: dict[str, Any] | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self.source = source
        self.store = store
        self.state = state
        self.pace = pace
        self.memory = memory
        self.machine_spec = machine_spec
        self.stop = stop or threading.Event()
        self.status = Status()
        self.drift = DriftWatch(store, source.spec.name, machine_spec)
        self._since_examined = 0
        self._rest = 0
        self._next_rest = 1
        self._learnt_what_was_examined = False
        self._said: str | None = None
        self._count_damaged()

    def run(self) -> None:
        """Rounds until `stop` is set; a round that fails is said, counted, and followed by the next."""
        while not self.stop.is_set():
            started = time.monotonic()
            self.guarded_round()
            _give_back()
            self.stop.wait(max(self.pace.interval - (time.monotonic() - started), 0.0))

    def guarded_round(self) -> bool:
        """One round; whether it succeeded."""
        started = time.monotonic()
        kind, problem = "", None
        try:
            outcome = self.round()
        except PrometheusError as error:
            outcome, kind, problem = "failed", error.kind, str(error)
        except TrainingMemoryError as error:
            outcome, kind, problem = "failed", "memory", str(error)
            with contextlib.suppress(TrainingMemoryError):
                self.memory.look_again()
                self._count_damaged()
        except StoreError as error:
            outcome, kind, problem = "failed", "store", str(error)
        except KeplerError as error:
            outcome, kind, problem = "failed", "data", str(error)
        except Exception:
            # a defect of ours must not end the trainer; what is in the memory stays
            log.exception("a round failed; this is a defect of the online trainer")
            outcome, kind, problem = "failed", "defect", "a defect of the online trainer; its log says more"
        status = self.status
        status.rounds[outcome] += 1
        if kind and kind != "stopped":
            status.problems[kind] += 1
        status.problem = problem
        if problem is not None and problem != self._said:
            log.error("%s", problem)
        elif problem is None and self._said is not None:
            log.warning("it goes on")
        self._said = problem
        status.seconds["round"] = time.monotonic() - started
        self._describe_memory()
        return problem is None

    def round(self) -> str:
        """One round; its outcome: "new data", "nothing new" or "empty"."""
        self.drift.refresh()
        self._learn_what_was_examined()
        started = time.monotonic()
        now = self.source.client.now()
        until = now - self.pace.delay
        outcome = self._fetch(until)
        self.status.seconds["fetch"] = time.monotonic() - started
        cursor = self.memory.cursor(now + _CLOCK_SLACK)
        self.status.lag = None if cursor is None else max(now - cursor, 0.0)
        gone = self.memory.tidy()
        if gone:
            log.info("%d instants were thinned out of the memory", gone)
        if outcome != "empty":
            self.status.last_success = time.time()
        if (trigger := self._due()) is not None:
            self._examine(*trigger)
        return outcome

    def _fetch(self, until: float) -> str:
        cursor = self.memory.cursor(until)
        reach = self.memory.reach
        earliest = until - self.pace.catch_up
        if cursor is not None:
            since = max(cursor - 2 * reach, earliest)
            if self.memory.newest() and max(self.memory.newest().values()) > until + reach + self.pace.interval:
                self.status.problems["clock"] += 1
                log.warning("a part of the memory is from the future: a clock was wrong")
        elif self.memory.has_lost:
            since = earliest
        elif self.memory.instants:
            since = until - 2 * reach
            self.status.problems["clock"] += 1
            log.warning("all that is in the memory is from the future: a clock was wrong; going on from now")
        else:
            since = until - self.pace.backfill
        if self.memory.has_lost:
            log.warning("what a damaged file of the memory held is asked for again, from %s on", utc(since))
        added = seen = 0
        for start, end in slices(since, until, 2 * reach):
            if self.stop.is_set():
                break
            found = self.source.fetch(start, end, self.stop)
            if found is None or not len(found.sample_time):
                continue
            seen += len(found.sample_time)
            result = self.memory.append(found, since=start, until=end)
            for name in ("added", "replaced", "known", "unusable"):
                self.status.instants[name] += getattr(result, name)
            added += result.added
            self.drift.update(found, result.fresh)
        self._since_examined += added
        if not self.stop.is_set():
            self.memory.fetched_again()
        if added:
            return "new data"
        return "nothing new" if seen else "empty"

    # --- examinations ---

    def _learn_what_was_examined(self) -> None:
        """After a restart: how much is new since the last decision about our node type."""
        if self._learnt_what_was_examined:
            return
        of_all = self.store.decisions(self.source.spec.name)
        decisions = [found for found in of_all if found.get("node_type") == self.drift.node_type]
        if decisions:
            self.status.last_decision = decisions[-1]
            until = float(decisions[-1].get("data_until", 0.0))
            newest = self.memory.table().column("time").to_numpy() if self.memory.instants else np.empty(0)
            self._since_examined = int(np.count_nonzero(newest > until))
        else:
            self._since_examined = self.memory.instants
        self._learnt_what_was_examined = True

    def _due(self) -> tuple[str, bool] | None:
        """Why an examination is due, and whether all is to be trained anew."""
        if self.drift.version is None:
            return ("first models", True) if self.memory.instants >= FIRST_INSTANTS else None
        if self._since_examined >= self.pace.retrain_after:
            return ("drift" if self.drift.alarm else "new data"), True
        if self.drift.alarm and self._since_examined >= DRIFT_INSTANTS:
            if self._rest > 0:
                self._rest -= 1
                return None
            return "drift", False
        return None

    def _examine(self, trigger: str, retrain: bool) -> None:
        task = Task(
            str(self.state),
            self.store.location,
            as_document(self.source.spec),
            trigger,
            retrain,
            self.pace.jobs,
            self.machine_spec,
        )
        started = time.monotonic()
        decision = self._in_a_process(task)
        self.status.seconds["examination"] = time.monotonic() - started
        self._since_examined = 0
        if decision is None:
            return
        if "error" in decision:
            self.status.problems["training"] += 1
            self.status.decisions["failed"] += 1
            log.error("the examination failed: %s", decision["error"])
            self._rest, self._next_rest = self._next_rest, min(2 * self._next_rest, LONGEST_REST)
            return
        self.status.last_decision = decision
        self.status.decisions[decision["decision"]] += 1
        self.status.law_changes += len(decision.get("law_changes", ()))
        self.drift.refresh()  # before a strict listener may end the round
        if decision["decision"] == "published":
            self._rest, self._next_rest = 0, 1
            version = decision["version"]
            log.info("version %s is published (%s): %s", version, decision["trigger"], decision["reason"])
            name, where = self.source.spec.name, self.store.location.rstrip("/")
            events().send("kepler_model_published", pipeline=name, version=version, path=f"{where}/{name}")
        else:
            if trigger == "drift":
                self._rest, self._next_rest = self._next_rest, min(2 * self._next_rest, LONGEST_REST)
            log.info("%s (%s): %s", decision["decision"], decision["trigger"], decision["reason"])

    def _in_a_process(self, task: Task) -> dict[str, Any] | None:
        """The decision; None if we are told to stop meanwhile."""
        command = [sys.executable, "-m", "kepler_servers.online_trainer.examination"]
        process = SessionProcess(command)
        answer: list[bytes] = []
        content = msgspec.json.encode(task)

        def talk() -> None:
            with contextlib.suppress(OSError, ValueError):  # it has ended: its exit code says more
                process.stdin.write(content)
                process.stdin.close()
                answer.append(process.stdout.read())

        talking = threading.Thread(target=talk, name="examination", daemon=True)
        talking.start()
        until = time.monotonic() + self.pace.training_seconds
        while talking.is_alive():
            talking.join(0.1)
            if self.stop.is_set() or time.monotonic() > until:
                process.kill()
                process.end()
                return None if self.stop.is_set() else {"error": f"not done in {self.pace.training_seconds:g} s"}
        code = process.end()
        if code != 0 or not answer or not answer[0]:
            return {"error": f"the training process ended with exit code {code}; the log says more"}
        return msgspec.json.decode(answer[0], type=dict[str, Any])

    def _count_damaged(self) -> None:
        new = len(self.memory.damaged) - self.status.damaged_files
        if new:
            self.status.damaged_files += new
            self.status.problems["memory"] += new

    def _describe_memory(self) -> None:
        status = self.status
        status.memory = self.memory.nodes
        status.memory_bytes = self.memory.size
        newest = self.memory.newest()
        latest = max(newest.values(), default=0.0)
        behind = max(2 * self.pace.interval, self.memory.reach)
        status.gone = {node: latest - time for node, time in newest.items() if latest - time > behind}


def _give_back() -> None:
    """Return to the system what a round took: it is not needed until the next one, minutes later."""
    pa.default_memory_pool().release_unused()
    with contextlib.suppress(AttributeError, OSError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


def state_folder(state: Path) -> Path:
    """The folder of the training memory in a state folder."""
    return state / MEMORY
