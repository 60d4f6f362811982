"""The main loop of the online trainer.

In each round, the loop fetches and stores new samples, compares the served models with them, and starts a retraining if
one is due.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import threading
import time
from typing import Any

import attrs
import msgspec
import numpy as np
import pyarrow as pa

from kepler_core.errors import KeplerError, PrometheusError, StoreError
from kepler_core.pipeline.load import as_document
from kepler_core.plugins.hooks import hooks
from kepler_core.recording.times import utc
from kepler_core.store import Store
from kepler_servers.online_trainer.collecting import SampleCollector
from kepler_servers.online_trainer.decision_record import last_decision
from kepler_servers.online_trainer.drift import DriftMonitor
from kepler_servers.online_trainer.fetching import Fetcher, time_slices
from kepler_servers.online_trainer.retraining.process import run_in_process
from kepler_servers.online_trainer.retraining.task import RetrainingTask
from kepler_servers.online_trainer.sample_files import SampleStoreError
from kepler_servers.online_trainer.sample_store import SampleStore
from kepler_servers.online_trainer.state_folder import StateFolder
from kepler_servers.online_trainer.status import Status
from kepler_servers.online_trainer.watched_state import watched_state

log = logging.getLogger(__name__)

FIRST_MODEL_SAMPLES = 100
"""Minimum number of stored samples for training the first models."""
DRIFT_SAMPLES = 60
"""Minimum number of new samples for a retraining after a drift. Some of these samples are held out for evaluation."""
MAX_SKIPPED_ROUNDS = 2
"""Maximum number of rounds to skip between a retraining that did not end a drift and the next retraining."""
_CLOCK_TOLERANCE_SECONDS = 1.0


@attrs.frozen
class Schedule:
    """The timing of rounds, fetches and retrainings; all durations are in seconds."""

    interval: float = 300.0
    """Time from the start of a round to the start of the next round."""
    delay: float = 10.0
    """Minimum age of values to fetch. The Prometheus server may not have all younger values yet."""
    backfill: float = 3600.0
    """The very first round fetches a time range of this length, which ends now."""
    catch_up: float = 6 * 3600.0
    """Maximum length of the time range that a round fetches after a pause of the online trainer."""
    retrain_after: int = 200
    """Number of new samples after which all models are retrained."""
    jobs: int = 1
    """Number of models to fit in parallel."""
    training_timeout: float = 3600.0
    """Time limit for a retraining, after which it is killed."""


class Rounds:
    """Runs the rounds of one online trainer, and holds the state that they share."""

    def __init__(
        self,
        fetcher: Fetcher,
        store: Store,
        state: StateFolder,
        schedule: Schedule,
        *,
        samples: SampleStore,
        machine_spec: dict[str, Any] | None = None,
        keep_versions: int | None = None,
        report: bool = True,
        stop: threading.Event | None = None,
    ) -> None:
        """Prepare the rounds.

        `store` is the model store, and `samples` is the sample store. `machine_spec` is the description of the nodes'
        machines; None if there is no description. `keep_versions` is the number of versions of the pipeline that stay
        in the model store after a publication; None means all versions. If `report` is true, a web page is made for
        each decision. Setting `stop` ends `run`.
        """
        self.fetcher = fetcher
        self.store = store
        self.state = state
        self.schedule = schedule
        self.samples = samples
        self.machine_spec = machine_spec
        self.keep_versions = keep_versions
        self.report = report
        self.stop = stop or threading.Event()
        self.status = Status()
        self.drift = DriftMonitor(store, fetcher.spec.name, machine_spec)
        self._new_samples = 0
        """Number of samples that were added after the latest retraining."""
        self._rounds_to_skip = 0
        self._next_skip = 1
        self._progress_restored = False
        self._logged_problem: str | None = None
        self._said_unusable = False
        self._count_damaged()

    def run(self) -> None:
        """Run rounds until `stop` is set. A failed round is logged and counted, but does not end the loop."""
        while not self.stop.is_set():
            started = time.monotonic()
            self.try_round()
            _release_memory()
            self.stop.wait(max(self.schedule.interval - (time.monotonic() - started), 0.0))

    def try_round(self) -> bool:
        """Run a round, record its outcome in `status`, and return whether it succeeded.

        If the round ends early because `stop` is set, no outcome is recorded.
        """
        started = time.monotonic()
        kind, problem = "", None
        try:
            outcome = self.round()
        except PrometheusError as error:
            if error.kind == "stopped":
                return False
            outcome, kind, problem = "failed", error.kind, str(error)
        except SampleStoreError as error:
            outcome, kind, problem = "failed", "memory", str(error)
            with contextlib.suppress(SampleStoreError):
                self.samples.recheck()
                self._count_damaged()
        except StoreError as error:
            outcome, kind, problem = "failed", "store", str(error)
        except KeplerError as error:
            outcome, kind, problem = "failed", "data", str(error)
        except Exception:
            # an unexpected exception must not end the server, which runs for months; stored samples are not lost
            log.exception("a round failed; this is a defect of the online trainer")
            outcome, kind, problem = "failed", "defect", "a defect of the online trainer; its log says more"
        self.status.rounds[outcome] += 1
        if kind:
            self.status.problems[kind] += 1
        self._log_problem(problem)
        self.status.seconds["round"] = time.monotonic() - started
        self._update_store_status()
        return problem is None

    def round(self) -> str:
        """Run a round and return its outcome.

        The outcome is "new data" if samples were added to the sample store, "nothing new" if the store already had all
        fetched samples, and "empty" if the Prometheus server had no samples.
        """
        self.drift.refresh()
        self._restore_progress()
        started = time.monotonic()
        now = self.fetcher.client.now()
        outcome = self._fetch(now - self.schedule.delay)
        self.status.seconds["fetch"] = time.monotonic() - started
        cursor = self.samples.cursor(now + _CLOCK_TOLERANCE_SECONDS)
        self.status.lag = None if cursor is None else max(now - cursor, 0.0)
        self._tidy()
        if outcome != "empty":
            self.status.last_success = time.time()
        if (trigger := self._due()) is not None:
            self._retrain(*trigger)
        return outcome

    # --- fetching ---

    def _fetch(self, until: float) -> str:
        """Fetch and store the samples up to `until` (Unix seconds), and return the outcome of the round."""
        reach = self.samples.reach
        since = self._fetch_since(until)
        if self.samples.has_lost:
            log.warning("a sample file was damaged: fetching its time range again, from %s on", utc(since))
        added = fetched = unusable = 0
        for start, end in time_slices(since, until, 2 * reach):
            if self.stop.is_set():
                break
            collector = SampleCollector(self.samples, start, end)
            for observations in self.fetcher.fetch_groups(start, end, self.stop):
                collector.add(observations)
            if not collector.n_fetched:
                continue
            fetched += collector.n_fetched
            result, new = collector.store()
            for name in ("added", "replaced", "known", "unusable", "left_out"):
                self.status.samples[name] += getattr(result, name)
            added += result.added
            unusable += result.unusable
            if new is not None:
                self.drift.update(new, result.fresh)
            del new
            self._tidy()
        self._new_samples += added
        if unusable > 1 and unusable == fetched and not self._said_unusable:
            log.warning("%d samples were fetched, and none can be used: they have no features or no power", fetched)
            self._said_unusable = True
        if not self.stop.is_set():
            self.samples.clear_lost()
        if added:
            return "new data"
        return "nothing new" if fetched else "empty"

    def _tidy(self) -> None:
        if removed := self.samples.tidy():
            log.info("removed %d samples, because the sample store was full", removed)

    def _fetch_since(self, until: float) -> float:
        """Return the start of the time range to fetch. `until` is the end of the range; both times are Unix seconds."""
        samples, reach = self.samples, self.samples.reach
        cursor = samples.cursor(until)
        earliest = until - self.schedule.catch_up
        if cursor is not None:
            newest = max(samples.newest().values(), default=-np.inf)
            if newest > until + reach + self.schedule.interval:
                self.status.problems["clock"] += 1
                log.warning("some stored samples are from the future: a clock was wrong")
            return max(cursor - 2 * reach, earliest)
        if samples.has_lost:
            return earliest
        if samples.sample_count:
            self.status.problems["clock"] += 1
            log.warning("all stored samples are from the future: a clock was wrong; continuing from the current time")
            return until - 2 * reach
        return until - self.schedule.backfill

    # --- retraining ---

    def _restore_progress(self) -> None:
        """In the first round after a start, restore the latest decision and the number of new samples.

        New samples are the samples that were added after the decision.
        """
        if self._progress_restored:
            return
        last = last_decision(self.store.decisions(self.fetcher.spec.name), self.drift.node_type)
        if last is not None:
            self.status.last_decision, record = last
            has_samples = self.samples.sample_count > 0
            time = self.samples.table().column("time").to_numpy() if has_samples else np.empty(0)
            self._new_samples = int(np.count_nonzero(time > record.data_until))
        else:
            self._new_samples = self.samples.sample_count
        self._progress_restored = True

    def _due(self) -> tuple[str, bool] | None:
        """Return the trigger of the retraining that is due, and whether all models must be trained anew.

        Returns None if no retraining is due.
        """
        if self.drift.version is None:
            return ("first models", True) if self.samples.sample_count >= FIRST_MODEL_SAMPLES else None
        if self._new_samples >= self.schedule.retrain_after:
            return ("drift" if self.drift.alarm else "new data"), True
        if self.drift.alarm and self._new_samples >= DRIFT_SAMPLES:
            if self._rounds_to_skip > 0:
                self._rounds_to_skip -= 1
                return None
            return "drift", False
        return None

    def _retrain(self, trigger: str, train_all: bool) -> None:
        task = RetrainingTask(
            state=str(self.state.path),
            store=self.store.location,
            pipeline=as_document(self.fetcher.spec),
            trigger=trigger,
            train_all=train_all,
            jobs=self.schedule.jobs,
            machine_spec=self.machine_spec,
            observed=[msgspec.to_builtins(watched_state(watched)) for watched in self.drift.watched],
            report=self.report,
        )
        started = time.monotonic()
        decision = run_in_process(task, timeout=self.schedule.training_timeout, stop=self.stop)
        self.status.seconds["retraining"] = time.monotonic() - started
        self._new_samples = 0
        if decision is None:
            return
        if "error" in decision:
            self.status.problems["training"] += 1
            self.status.decisions["failed"] += 1
            log.error("the retraining failed: %s", decision["error"])
            self._skip_rounds()
            return
        self.status.last_decision = decision
        self.status.decisions[decision["decision"]] += 1
        self.status.power_shifts += len(decision.get("law_changes", ()))
        # Load the new models before the hook `kepler_model_published` is called. If a strict listener raises an
        # exception, the round ends there.
        self.drift.refresh()
        if decision["decision"] == "published":
            self._rounds_to_skip, self._next_skip = 0, 1
            version = decision["version"]
            log.info("published version %s (%s): %s", version, decision["trigger"], decision["reason"])
            self._prune()
            name, location = self.fetcher.spec.name, self.store.location.rstrip("/")
            hooks().call("kepler_model_published", pipeline=name, version=version, path=f"{location}/{name}")
        else:
            if trigger == "drift":
                self._skip_rounds()
            log.info("%s (%s): %s", decision["decision"], decision["trigger"], decision["reason"])

    def _prune(self) -> None:
        """Remove old versions from the model store. A failure is logged and counted, but does not end the round."""
        if self.keep_versions is None:
            return
        try:
            pruned = self.store.prune(self.fetcher.spec.name, self.keep_versions)
        except StoreError as error:
            self.status.problems["store"] += 1
            log.warning("old versions cannot be removed: %s", error)
        else:
            log.info("removed %d old versions", len(pruned.removed))

    def _skip_rounds(self) -> None:
        """After a retraining that did not end a drift, set the number of rounds to skip before the next retraining."""
        self._rounds_to_skip, self._next_skip = self._next_skip, min(2 * self._next_skip, MAX_SKIPPED_ROUNDS)

    # --- status ---

    def _log_problem(self, problem: str | None) -> None:
        """Log the problem of a round if it is new, and log the recovery in the first round without a problem."""
        self.status.problem = problem
        if problem is not None and problem != self._logged_problem:
            log.error("%s", problem)
        elif problem is None and self._logged_problem is not None:
            log.warning("recovered: the latest round succeeded")
        self._logged_problem = problem

    def _count_damaged(self) -> None:
        new = len(self.samples.damaged) - self.status.damaged_files
        if new:
            self.status.damaged_files += new
            self.status.problems["memory"] += new

    def _update_store_status(self) -> None:
        status = self.status
        status.stored_samples = self.samples.samples_by_node
        status.stored_bytes = self.samples.size
        newest = self.samples.newest()
        latest = max(newest.values(), default=0.0)
        tolerance = max(2 * self.schedule.interval, self.samples.reach)
        status.gone = {node: latest - time for node, time in newest.items() if latest - time > tolerance}


def _release_memory() -> None:
    """Return unused memory to the operating system until the next round, which starts some minutes later."""
    pa.default_memory_pool().release_unused()
    with contextlib.suppress(AttributeError, OSError):  # C libraries other than glibc lack malloc_trim
        ctypes.CDLL(None).malloc_trim(0)
