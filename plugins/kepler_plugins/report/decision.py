"""The page of a decision of the online trainer, rendered with the template decision.html.j2."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kepler_core.recording.times import utc
from kepler_plugins.report.decision_pictures import of_samples, timeline
from kepler_plugins.report.decision_record import Candidate, Decision, ModelResult, read_decision, read_decisions
from kepler_plugins.report.pictures import Pictures
from kepler_plugins.report.templates import render

TRIGGERS = {
    "first models": "no model was served for these machines yet",
    "new data": "enough new samples were added since the last retraining",
    "drift": "the running error of a served model exceeded its limit",
    "law change": "the power of a machine shifted: it needs other watts for the same work",
}
"""Why a retraining was started, in words."""

MAX_TIMELINE = 20
"""Maximum number of decisions in the table of the last decisions."""


def decision_page(retraining: Mapping[str, Any]) -> str:
    """Return the page of a decision as one HTML document without references to other files.

    `retraining` is the argument of the hook `kepler_retraining_decided`.
    """
    decision = read_decision(retraining["decision"])
    if decision is None:
        raise ValueError("the decision is malformed")
    last = [*read_decisions(retraining["earlier"]), decision][-MAX_TIMELINE:]
    pictures = Pictures()
    return render(
        "decision.html.j2",
        pipeline=retraining["pipeline"],
        decision=decision,
        title=_title(decision),
        summary=_summary(decision),
        facts=list(_facts(decision)),
        rows=[_row(candidate) for candidate in decision.models],
        watched=list(_watched(decision)),
        shifts=list(_shifts(decision)),
        pictures=of_samples(pictures, retraining["samples"]),
        timeline=timeline(pictures, last),
        last=[_entry(entry) for entry in reversed(last)],
    )


def _title(decision: Decision) -> str:
    if decision.decision == "published":
        return "a new version" if decision.version is None else f"version {decision.version} is published"
    return {"kept aside": "nothing is published", "failed": "no models could be trained"}.get(
        decision.decision, decision.decision
    )


def _summary(decision: Decision) -> list[str]:
    """Return the sentences at the top of the page, for people who read nothing else."""
    trigger = TRIGGERS.get(decision.trigger or "", decision.trigger or "the reason was not recorded")
    sentences = [f"Why the models were retrained: {trigger}."]
    sentences.append(f"The result: {decision.reason or 'no reason was recorded'}.")
    better = [candidate for candidate in decision.models if candidate.better]
    if decision.models:
        sentences.append(
            f"{len(better)} of {len(decision.models)} candidates are better than the served model at their path."
        )
    best = max(better, key=lambda candidate: candidate.gain or 0.0, default=None)
    if best is not None and best.gain is not None and best.served is not None and best.needed is not None:
        sentences.append(
            f"The largest gain is {best.gain:.2f} W (sum of the components; more than {best.needed:.2f} W was needed), "
            f"of {best.path}."
        )
    if (coverage := _coverage(decision)) is not None:
        sentences.append(coverage)
    if decision.problem:
        sentences.append(f"No challenger was trained: {decision.problem}.")
    return sentences


def _coverage(decision: Decision) -> str | None:
    """Return a sentence about coverage: that of the served model's intervals, and that of a new model's intervals.

    The new model is the best candidate whose coverage is recorded. Return None if there is none.
    """
    for candidate in sorted(decision.models, key=lambda one: (not one.better, -(one.gain or 0.0))):
        if candidate.served is None or candidate.new is None:
            continue
        component = candidate.served.worst
        before, after = (one.value("coverage", component) for one in (candidate.served, candidate.new))
        if before is not None and after is not None:
            return (
                f"On the samples on which both were judged, {100 * before:.0f} % of the measured values of {component} "
                f"are in the intervals of the served model and {100 * after:.0f} % in those of the new one "
                f"({candidate.path}); 90 % are meant to be."
            )
    return None


def _facts(decision: Decision) -> Iterator[tuple[str, str]]:
    """Yield facts about a retraining. A fact is a pair of a name and a text."""
    yield "time (UTC)", decision.time or "–"
    if decision.held_out:
        text = f"{decision.held_out:,} samples"
        if decision.held_out_from is not None and decision.held_out_until is not None:
            text += f", from {_time(decision.held_out_from)} to {_time(decision.held_out_until)} UTC"
        yield "judged on", f"{text}, on which neither model was trained"
    elif decision.held_out == 0:
        yield "judged on", "nothing: no model was served before, or there were no new samples"
    if decision.instants is not None:
        yield "trained on", f"{decision.instants:,} samples"
    if decision.data_until and decision.served_until is not None and decision.served_until > 0:
        hours = (decision.data_until - decision.served_until) / 3600
        yield (
            "age of the served models",
            (f"the newest sample of their training was {hours:,.1f} hours older than the newest sample now"),
        )
    if decision.trained_on_all:
        yield "trained once more on all samples", ", ".join(decision.trained_on_all)
    if decision.isolator:
        yield "isolator", decision.isolator
    if decision.seconds is not None:
        yield "duration", f"{decision.seconds:,.0f} s"


def _time(seconds: float) -> str:
    try:
        return utc(seconds)
    except (ValueError, OverflowError, OSError):  # the time in a record may be any number, even an impossible time
        return f"{seconds:g} s"


def _row(candidate: Candidate) -> dict[str, Any]:
    """Return the row for a candidate in the table of candidates.

    The row has the errors of one component: the component for which the new model has its largest error.
    """
    reference = candidate.new or candidate.served
    component = None if reference is None else reference.worst

    def both(key: str) -> tuple[float | None, float | None]:
        first, second = (_value(one, key, component) for one in (candidate.served, candidate.new))
        return first, second

    return {
        "path": candidate.path,
        "kind": candidate.kind,
        "better": candidate.better,
        "component": component or "–",
        "mae": both("mae"),
        "idle": both("idle_error"),
        "coverage": both("coverage"),
        "half_width": both("half_width"),
        "gain": candidate.gain if candidate.needed is not None else None,
        "needed": candidate.needed,
        "reason": candidate.reason,
    }


def _value(result: ModelResult | None, key: str, component: str | None) -> float | None:
    return None if result is None or component is None else result.value(key, component)


def _watched(decision: Decision) -> Iterator[dict[str, Any]]:
    for model in decision.observed:
        for component, observed in model.components.items():
            error, limit = observed.running_error, observed.running_error_limit
            yield {
                "model": f"{model.source}/{model.feature_group}/{model.model}",
                "component": component,
                "error": error,
                "limit": limit,
                "drift": error is not None and limit is not None and error > limit,
                "coverage": observed.interval_coverage,
                "half_width": observed.interval_half_width,
                "outside": model.samples_outside,
                "disagreements": model.disagreements,
            }


def _shifts(decision: Decision) -> Iterator[dict[str, Any]]:
    """Yield a table row for each component of each power shift. Malformed power shifts are skipped."""
    for shift in decision.law_changes:
        lines, since = shift.get("lines"), shift.get("since")
        for key, line in lines.items() if isinstance(lines, dict) else ():
            scale, offset = (line.get(name) if isinstance(line, dict) else None for name in ("scale", "offset"))
            yield {
                "node": str(shift.get("node")),
                "component": str(key),
                "since": _time(since) if isinstance(since, int | float) else "–",
                "scale": scale if isinstance(scale, int | float) else None,
                "offset": offset if isinstance(offset, int | float) else None,
            }


def _entry(decision: Decision) -> dict[str, Any]:
    """Return the row for a decision in the table of the last decisions.

    The row has the errors of the decision's first candidate. The candidates are sorted: better ones come first.
    """
    first = next((one for one in decision.models if one.served is not None and one.new is not None), None)
    served, new = (None, None) if first is None else (first.served, first.new)
    component = None if served is None else served.worst
    return {
        "time": decision.time or "–",
        "trigger": decision.trigger or "–",
        "decision": decision.decision,
        "version": decision.version,
        "served": _value(served, "mae", component),
        "new": _value(new, "mae", component),
        "path": "–" if first is None else f"{first.path} {component}",
        "reason": decision.reason or "–",
    }
