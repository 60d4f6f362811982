"""Train challengers, let them compete with what is served, publish what is better: one process each time.

It is a process of its own so that its memory is given back, and so that nothing that a trainer does can
end the trainer that runs for months. Whatever it does it does in this order: a law change is written
down, challengers are trained into a store of their own, the winner is trained once more on all data and
published with the decision in its metadata, the decision is recorded. A kill between any two of these
loses no more than a training.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import msgspec
import numpy as np
import pyarrow as pa

from kepler_core.contracts import IsolationContext
from kepler_core.dataset import Dataset
from kepler_core.errors import KeplerError, ModelError, PluginError, TrainingError, VersionTakenError
from kepler_core.machine import Machine, machine_spec_from
from kepler_core.models.loading import load_model
from kepler_core.models.power_model import METADATA_FILE, PowerModel
from kepler_core.models.recalibration import Correction, recalibrated
from kepler_core.pipeline.load import pipeline_from
from kepler_core.pipeline.node_types import NodeTypeSlot, find_slot
from kepler_core.pipeline.spec import PipelineSpec, PluginSpec
from kepler_core.pipeline.train import train
from kepler_core.plugins import registry
from kepler_core.recording.observations import Observations
from kepler_core.store import Snapshot, open_store
from kepler_core.store.layout import NODE_TYPE_INDEX, pipeline_files
from kepler_core.store.local import VERSIONS, LocalStore
from kepler_core.store.manifest import MANIFEST_FILE
from kepler_core.store.models import StoredModel, read_models
from kepler_profiler.profile.build import build_profile
from kepler_profiler.profile.document import ProfileError, write_profile
from kepler_servers.online_trainer import instants
from kepler_servers.online_trainer.contest import SMALLEST_GAIN, Judge, Judged, Verdict, compare, described
from kepler_servers.online_trainer.holdout import FEWEST_INSTANTS, NOTHING, hold_out
from kepler_servers.online_trainer.law import LawBook, LawChange, Line, changed_watts, find_changes, of_node_type
from kepler_servers.online_trainer.memory import TrainingMemory
from kepler_servers.online_trainer.restating import restated
from kepler_servers.parent_watch import end_with_parent

log = logging.getLogger(__name__)

KEPT_CHALLENGERS = 5

MEMORY = "memory"
LAWS = "laws.json"
CHALLENGERS = "challengers"
ONLINE = "online"
"""The key of a pipeline's metadata under which the online trainer keeps what it needs."""


class Task(msgspec.Struct, frozen=True):
    """What to examine."""

    state: str
    store: str
    pipeline: dict[str, Any]
    trigger: str
    """Why: "first models", "new data" or "drift"."""
    retrain: bool
    """Whether all is to be trained anew, or only if the law has not changed."""
    jobs: int = 1
    machine_spec: dict[str, Any] | None = None
    """What the nodes are, where that is known."""


PROFILE_ISOLATOR = "ProfileBackgroundIsolator"
DEFAULT_ISOLATOR = "MinIdleIsolator"

Files = Mapping[str, bytes]
Model = tuple[Mapping[str, Any], Files]
"""Metadata and files."""


@attrs.define
class Candidate:
    """A model that may be published."""

    kind: str
    """"retrained" or "recalibrated"."""
    metadata: Mapping[str, Any]
    files: Files
    trained_until: float
    judged: Judged | None = None
    verdict: Verdict | None = None


def examine(task: Task) -> dict[str, Any]:
    """Do it; the decision, as it is recorded."""
    started = time.monotonic()
    spec = pipeline_from(task.pipeline, "pipeline")
    store = open_store(task.store)
    store.check_writable(spec.name)
    state = Path(task.state)
    machine = None if task.machine_spec is None else Machine(machine_spec_from(task.machine_spec, "machine"))
    memory = TrainingMemory(state / MEMORY, only_read=True)
    table = memory.table()
    book = LawBook(state / LAWS)
    place = find_slot(store, spec.name, machine)
    champion = place.snapshot
    everything = {} if champion is None else {entry.path: entry for entry in read_models(champion)}
    served = {path: entry for path, entry in everything.items() if entry.node_type == place.node_type}
    trained_until = {} if champion is None else _trained_until(champion)
    whole = changed_watts(instants.to_observations(table, memory.step), book.changes())
    since = max((trained_until.get(path, -np.inf) for path in served), default=-np.inf)
    held_out = NOTHING
    if served:
        held_out = hold_out(whole.sample_time, since, whole.step, drift=task.trigger == "drift")
    trainable = held_out.trainable(instants.floats(table, "time"))
    remembered = instants.to_observations(table.filter(pa.array(trainable)), memory.step)
    earlier = changed_watts(remembered, book.changes())
    until = float(earlier.sample_time.max(initial=0.0))

    changes = find_changes(earlier)
    if changes:
        for change in changes:
            log.warning("the power law of %s has changed: %s", change.node, _lines(change.lines))
        book.add(changes)
        whole, earlier = changed_watts(whole, changes), changed_watts(earlier, changes)
    profile = _profile(earlier, place)
    spec = _isolated_by(spec, profile)
    context = IsolationContext(whole, profile=profile, machine_spec=place.spec.as_dict())
    decision: dict[str, Any] = {
        "isolator": spec.isolator.name,
        "time": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S"),
        "trigger": "law change" if changes else task.trigger,
        "node_type": place.node_type,
        "data_until": float(whole.sample_time.max(initial=0.0)),
        "instants": len(earlier.sample_time),
        "held_out": int(np.count_nonzero(held_out.covers(whole.sample_time))),
        "law_changes": msgspec.to_builtins(changes),
    }
    retrain = partial(_retrained, state=state, jobs=task.jobs, machine=machine, profile=profile, champion=champion)
    candidates: dict[str, list[Candidate]] = {}
    base = champion
    if changes and served:
        for path, corrected in _recalibrated(served, changes, earlier.streams, until).items():
            candidates.setdefault(path, []).append(corrected)
    problem = None
    if task.retrain or not changes or not candidates:
        try:
            base, retrained = retrain(spec, earlier, until)
            for path, found in retrained.items():
                candidates.setdefault(path, []).append(found)
        except TrainingError as error:
            problem = str(error)
    context = attrs.evolve(context, abs_model=_AbsModels(served, candidates))
    judge = Judge(context, spec, held_out)
    winners, rows = _contest(judge, served, candidates)
    again = _trained_on_all(winners, spec, whole, judge, retrain)
    winners |= again
    decision["trained_on_all"] = sorted(again)
    honest = _restated(judge, served, winners)
    decision["models"] = rows
    decision["problem"] = problem
    decision["seconds"] = round(time.monotonic() - started, 1)
    chosen_before, chosen_after = _best(served, {}), _best(served, honest)
    if not winners and chosen_before == chosen_after:
        reasons = list(dict.fromkeys(row["reason"] for row in rows)) or [problem or "nothing could be trained"]
        decision |= {"decision": "failed" if not rows else "kept aside", "version": None, "reason": reasons[0]}
        if base is not None and champion is not None and base is not champion:
            decision["aside"] = base.version
        store.record_decision(spec.name, decision)
        return decision
    decision |= {"decision": "published", "reason": _why_published(winners, rows, chosen_before ^ chosen_after)}
    assert base is not None
    kept = {path: entry for path, entry in everything.items() if path not in winners}
    trained = {path: trained_until.get(path, -1.0) for path in kept} | {p: w.trained_until for p, w in winners.items()}
    files = _composed(base, kept, winners, honest, {"trained_until": trained, "decision": decision})
    try:
        decision["version"] = store.publish(spec.name, files, version=place.next_version)
    except VersionTakenError:
        reason = "another version was published meanwhile: it was not compared with"
        decision |= {"decision": "kept aside", "version": None, "reason": reason}
    store.record_decision(spec.name, decision)
    return decision


def _profile(observations: Observations, place: NodeTypeSlot) -> dict[str, Any] | None:
    """The node type's profile: of the quiet stretches that are remembered, where there are some, else as
    it was published before."""
    before = place.profile()
    try:
        made = build_profile(observations, machine_spec=place.spec.as_dict(), node_type=place.node_type)
    except ProfileError as error:
        log.info("no profile of what is remembered: %s", error)
        return before
    if before is not None and not made.quiet.idle:
        return before
    return msgspec.json.decode(write_profile(made), type=dict[str, Any])


def _isolated_by(spec: PipelineSpec, profile: Mapping[str, Any] | None) -> PipelineSpec:
    """By the profile where that knows the idle power, unless the pipeline says otherwise."""
    by_default = spec.isolator == PluginSpec(DEFAULT_ISOLATOR)
    if by_default and profile is not None and profile.get("quiet", {}).get("idle"):
        return attrs.evolve(spec, isolator=PluginSpec(PROFILE_ISOLATOR))
    return spec


class _AbsModels:
    """The best AbsPower model of a data set's source and features, for isolators that need one."""

    def __init__(self, served: Mapping[str, StoredModel], candidates: Mapping[str, Sequence[Candidate]]) -> None:
        self._known: list[tuple[float, Mapping[str, Any], Callable[[], PowerModel]]] = [
            (float(c.metadata["mae"]), c.metadata, partial(load_model, c.files, str(c.metadata["model_name"])))
            for found in candidates.values()
            for c in found
        ] or [(float(e.metadata["mae"]), e.metadata, e.load) for e in served.values() if e.portable]

    def __call__(self, dataset: Dataset) -> PowerModel:
        fits = [
            (mae, load)
            for mae, metadata, load in self._known
            if metadata.get("output_type") == "AbsPower"
            and metadata.get("source") == dataset.source
            and tuple(metadata["features"]) == tuple(dataset.features)
        ]
        if not fits:
            raise PluginError(f"no AbsPower model of {dataset.source} from {', '.join(dataset.features)}")
        return min(fits, key=lambda found: found[0])[1]()


def _trained_until(champion: Snapshot) -> dict[str, float]:
    online = champion.read_json(METADATA_FILE).get(ONLINE)
    found = online.get("trained_until") if isinstance(online, dict) else None
    return {path: float(at) for path, at in found.items()} if isinstance(found, dict) else {}


def _recalibrated(
    served: Mapping[str, StoredModel], changes: Sequence[LawChange], streams: Sequence[Any], until: float
) -> dict[str, Candidate]:
    lines = of_node_type(changes, sorted({stream.node for stream in streams}))
    if lines is None:
        log.info("the nodes do not agree how the law has changed: no model of all of them can be recalibrated")
        return {}
    found = {}
    for path, entry in served.items():
        if not entry.portable:
            continue
        corrections = {
            component: _correction(line, entry.output_type)
            for key, line in lines.items()
            for source, _, component in [key.rpartition(".")]
            if source == entry.source
        }
        if not corrections:
            continue
        try:
            files = recalibrated(_files(entry), corrections)
        except ModelError as error:
            log.warning("%s cannot be recalibrated: %s", path, error)
            continue
        metadata = msgspec.json.decode(files[METADATA_FILE], type=dict[str, Any])
        found[path] = Candidate("recalibrated", metadata, files, until)
    return found


def _correction(line: Line, output_type: str) -> Correction:
    # what was added to a node's power whatever it does is not a container's
    return Correction(line.scale, line.offset if output_type == "AbsPower" else 0.0)


def _files(entry: StoredModel) -> dict[str, bytes]:
    start = entry.path + "/"
    names = (name for name in entry.snapshot.names if name.startswith(start))
    return {name.removeprefix(start): entry.snapshot.read(name) for name in sorted(names)}


def _retrained(
    spec: PipelineSpec,
    observations: Observations,
    until: float,
    *,
    state: Path,
    jobs: int,
    machine: Machine | None,
    profile: Mapping[str, Any] | None,
    champion: Snapshot | None,
) -> tuple[Snapshot, dict[str, Candidate]]:
    """Train in a store of our own, on top of what is served: other node types and profiles stay."""
    aside = LocalStore(state / CHALLENGERS)
    if champion is not None:
        names = champion.names - {MANIFEST_FILE}
        aside.publish(spec.name, {name: champion.read(name) for name in sorted(names)})
    report = train(spec, observations, aside, jobs=jobs, machine=machine, profile=profile)
    for old in aside.versions(spec.name)[:-KEPT_CHALLENGERS]:
        shutil.rmtree(aside.root / VERSIONS / spec.name / str(old), ignore_errors=True)
    snapshot = aside.snapshot(spec.name, report.version)
    found = {
        entry.path: Candidate("retrained", entry.metadata, _files(entry), until)
        for entry in read_models(snapshot)
        if entry.node_type == report.node_type
    }
    return snapshot, found


def _contest(
    judge: Judge, served: Mapping[str, StoredModel], candidates: Mapping[str, Sequence[Candidate]]
) -> tuple[dict[str, Candidate], list[dict[str, Any]]]:
    """The candidates that are better than what is served, by path; and a row for each for the record."""
    winners: dict[str, Candidate] = {}
    rows = []
    for path, found in sorted(candidates.items()):
        champion = served.get(path)
        against = _judged_stored(judge, champion) if champion is not None else None
        for candidate in found:
            candidate.judged = _judged(judge, candidate)
            candidate.verdict = _verdict(champion, against, candidate.judged)
            rows.append(
                {
                    "path": path,
                    "kind": candidate.kind,
                    "better": candidate.verdict.better,
                    "reason": candidate.verdict.reason,
                    "served": described(against),
                    "new": described(candidate.judged),
                }
            )
        better = [candidate for candidate in found if candidate.verdict is not None and candidate.verdict.better]
        if better:
            winners[path] = max(better, key=lambda c: c.verdict.gain if c.verdict is not None else 0.0)
    rows.sort(key=lambda row: not row["better"])
    return winners, rows


def _trained_on_all(
    winners: Mapping[str, Candidate],
    spec: PipelineSpec,
    whole: Observations,
    judge: Judge,
    retrain: Callable[[PipelineSpec, Observations, float], tuple[Snapshot, dict[str, Candidate]]],
) -> dict[str, Candidate]:
    """The winners that were trained anew, trained once more, now with what they were judged on: that is
    the newest of the data, and what the machine does now may be in no other. One that is not as good
    there although it has seen it is left out."""
    anew = {path: w.judged for path, w in winners.items() if w.kind == "retrained" and w.judged is not None}
    if not anew:
        return {}
    try:
        _, found = retrain(
            _only(spec, [winners[path].metadata for path in anew]), whole, float(whole.sample_time.max())
        )
    except TrainingError as error:
        log.warning("what is better could not be trained on all data: %s", error)
        return {}
    kept = {}
    for path, judged in anew.items():
        again = _judged(judge, found[path]) if path in found else None
        if again is not None and again.total().mean() <= (1 + SMALLEST_GAIN) * judged.total().mean():
            kept[path] = found[path]
    return kept


def _only(spec: PipelineSpec, metadata: Sequence[Mapping[str, Any]]) -> PipelineSpec:
    """The pipeline without what is not needed for some models."""
    trainers = {(m["output_type"], m["trainer"]) for m in metadata}

    def of(output_type: str, named: Sequence[PluginSpec]) -> list[PluginSpec]:
        return [one for one in named if (output_type, registry.trainers.canonical(one.name)) in trainers]

    dynamic = of("DynPower", spec.dyn_trainers)
    return attrs.evolve(
        spec,
        energy_sources=sorted({m["source"] for m in metadata}),
        feature_groups=sorted({m["feature_group"] for m in metadata}),
        # an isolator may need models of a node's power
        abs_trainers=spec.abs_trainers if dynamic else of("AbsPower", spec.abs_trainers),
        dyn_trainers=dynamic,
    )


def _verdict(champion: StoredModel | None, against: Judged | None, judged: Judged | None) -> Verdict:
    if champion is None:
        return Verdict(True, "nothing is served in its place", 0.0)
    if not champion.portable:
        return Verdict(False, "what is served cannot be loaded, so it cannot be compared with", 0.0)
    if judged is None or against is None:
        return Verdict(False, f"fewer than {FEWEST_INSTANTS} new instants to judge on", 0.0)
    return compare(against, judged)


def _judged_stored(judge: Judge, entry: StoredModel) -> Judged | None:
    if not entry.portable:
        return None
    return _applied(judge, entry.load(), entry.source, entry.output_type, entry.feature_group)


def _judged(judge: Judge, candidate: Candidate, *, everywhere: bool = False) -> Judged | None:
    metadata = candidate.metadata
    model = load_model(candidate.files, str(metadata["model_name"]))
    place = metadata["source"], metadata["output_type"], metadata["feature_group"]
    return _applied(judge, model, *place, everywhere=everywhere)


def _applied(
    judge: Judge, model: PowerModel, source: str, output_type: Any, group: str, *, everywhere: bool = False
) -> Judged | None:
    with np.errstate(all="ignore"):
        return judge.judge(model, source, output_type, group, everywhere=everywhere)


def _restated(judge: Judge, served: Mapping[str, StoredModel], winners: Mapping[str, Candidate]) -> dict[str, Model]:
    """Models that are going to be served (metadata, files), with the errors that they have on all that is
    remembered; those that state such an error already are left out."""
    found: dict[str, Model] = {}
    for path, entry in served.items():
        if path not in winners and entry.portable:
            judged = _applied(
                judge, entry.load(), entry.source, entry.output_type, entry.feature_group, everywhere=True
            )
            made = None if judged is None else restated(entry.metadata, _files(entry), judged)
            if made is not None:
                found[path] = made
    for path, winner in winners.items():
        # one that is trained anew was validated on all that is remembered
        if winner.kind == "recalibrated":
            judged = _judged(judge, winner, everywhere=True)
            made = None if judged is None else restated(winner.metadata, winner.files, judged)
            if made is not None:
                found[path] = made
    return found


def _best(served: Mapping[str, StoredModel], honest: Mapping[str, Model]) -> set[str]:
    """The models with the lowest stated error of each source, output type and feature group."""
    best: dict[tuple[str, str, str], tuple[float, str]] = {}
    for path, entry in served.items():
        metadata = honest[path][0] if path in honest else entry.metadata
        mae = metadata.get("mae")
        if entry.portable and isinstance(mae, int | float):
            key = entry.source, entry.output_type, entry.feature_group
            best[key] = min(best.get(key, (float("inf"), "")), (float(mae), path))
    return {path for _, path in best.values()}


def _why_published(
    winners: Mapping[str, Candidate], rows: Sequence[Mapping[str, Any]], otherwise_chosen: set[str]
) -> str:
    if not winners:
        return f"others are the best, by their errors on all that is remembered: {', '.join(sorted(otherwise_chosen))}"
    kinds = sorted({winner.kind for winner in winners.values()})
    why = next(row["reason"] for row in rows if row["better"])
    return f"{len(winners)} {' and '.join(kinds)}: {why}"


def _composed(
    base: Snapshot,
    kept: Mapping[str, StoredModel],
    winners: Mapping[str, Candidate],
    honest: Mapping[str, Model],
    online: dict[str, Any],
) -> dict[str, bytes]:
    """The files of the version to publish: what won, what was not beaten, and all else of `base`."""
    metadata = base.read_json(METADATA_FILE)
    metadata["last_update_time"] = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
    metadata[ONLINE] = online
    models: dict[str, Model] = {path: (entry.metadata, _files(entry)) for path, entry in kept.items()}
    models |= {path: (winner.metadata, winner.files) for path, winner in winners.items()}
    models |= honest
    files = pipeline_files([models[path] for path in sorted(models)], metadata, base.read_json(NODE_TYPE_INDEX))
    paths = {entry.path for entry in read_models(base)}
    for name in sorted(base.names - files.keys() - {MANIFEST_FILE}):
        of_a_model = any(name.startswith((f"{path}/", f"{path}.")) for path in paths)
        if not of_a_model and not name.endswith("_model_metadata.csv"):
            files[name] = base.read(name)
    return files


def _lines(lines: Mapping[str, Line]) -> str:
    return ", ".join(f"{key} × {line.scale:.3f} {line.offset:+.1f} W" for key, line in sorted(lines.items()))


def main() -> None:
    """Read a task from standard input, write the decision (or `{"error": …}`) to standard output."""
    end_with_parent()
    # whatever a trainer prints must not be taken for the decision
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        task = msgspec.json.decode(sys.stdin.buffer.read(), type=Task)
    except msgspec.DecodeError as error:
        # killed while it wrote it
        sys.exit(f"the examination's task is not whole, who asked for it has ended: {error}")
    try:
        result = examine(task)
    except KeplerError as error:
        result = {"error": str(error)}
    # who asked may have been killed meanwhile: then nobody reads the decision, which is recorded
    with contextlib.suppress(BrokenPipeError), answer:
        answer.write(msgspec.json.encode(result))


if __name__ == "__main__":
    main()
