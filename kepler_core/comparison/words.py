"""The result of a comparison in words."""

from __future__ import annotations

from collections.abc import Sequence

from kepler_core.comparison.choice import ALL_FEATURES, Choice
from kepler_core.comparison.pairs import CommonError, Pair, common_error
from kepler_core.comparison.sides import Side, SideModel
from kepler_core.honesty.document import SPLIT_NAMES, SplitName

SPLIT_WORDS: dict[SplitName, str] = {
    "blocks": "blocks of time",
    "regimes": "other kinds of work",
    "recordings": "another recording",
    "nodes": "another node",
}
"""Maps each split (kind of held-out data) to its name in sentences."""

MAX_CASES = 6
"""The summary describes at most this number of cases. A case is an energy source with an output type."""
SAME_ERROR = 0.02
"""Errors count as equal if they differ by at most this fraction of the larger one."""
SIGNIFICANT = 2.0
"""The summary calls the difference of two errors noise if it is smaller than this number of standard errors."""


def summary(
    first: Side, second: Side, pairs: Sequence[Pair], choices: Sequence[Choice], same_data: bool | None
) -> list[str]:
    """Return the result of a comparison as sentences, the most important ones first."""
    general = [choice for choice in choices if choice.features == ALL_FEATURES]
    sentences = [_of_case(choice) for choice in general[:MAX_CASES]]
    if len(general) > MAX_CASES:
        sentences.append(f"{len(general) - MAX_CASES} more energy sources and types are in the tables.")
    sentences.append(_counts(pairs))
    if seen := [text for side in (first, second) if (text := _seen(side))]:
        sentences.append(" ".join(seen))
    if same_data is False:
        sentences.append(
            "A and B were trained on different data, so their errors were measured on different samples: a lower error "
            "may come from easier data."
        )
    elif same_data is None:
        sentences.append("It is not known whether A and B were trained on the same data.")
    return sentences + [
        f"{unknown} of {len(side.models)} models of {side.letter} state no errors by split."
        for side in (first, second)
        if (unknown := sum(model.problem is not None for model in side.models))
    ]


def _of_case(choice: Choice) -> str:
    where = f"{choice.source} {choice.output_type}"
    if choice.first is None or choice.second is None:
        side = "A" if choice.second is None else "B"
        return f"{where}: only {side} has models that can be used, so select takes {_name(choice.model)} of {side}."
    if _name(choice.first) == _name(choice.second):
        names = f"{_name(choice.first)} from A and from B"
    else:
        names = f"{_name(choice.first)} from A and {_name(choice.second)} from B"
    parts = [f"{where}: select takes {names}"]
    parts += _differences(choice.first, choice.second)
    if (error := common_error(Pair(choice.first.key, 0, choice.first, choice.second))) is not None:
        parts.append(_common(error))
    reason = choice.compared_by.rstrip(",")
    parts.append(f"From A and B together, select takes {_name(choice.model)} of {choice.taken}, compared by {reason}")
    return ". ".join(parts) + "."


def _name(model: SideModel) -> str:
    return f"{model.stored.feature_group}/{model.stored.name}"


def _differences(one: SideModel, two: SideModel) -> list[str]:
    """Return sentences, without full stops, that compare the errors of a model of A and a model of B.

    They state on which splits B is better, worse or about equal, and which splits were not measured for both models.
    """
    better: list[str] = []
    worse: list[str] = []
    equal: list[str] = []
    single: list[str] = []
    never: list[str] = []
    for name in SPLIT_NAMES:
        first, second = one.errors.get(name), two.errors.get(name)
        if first is None or second is None:
            if first is None and second is None:
                never.append(SPLIT_WORDS[name])
            else:
                single.append(f"on {SPLIT_WORDS[name]} only for {'A' if second is None else 'B'}")
            continue
        text = (
            f"on {SPLIT_WORDS[name]} by {abs(first.mae - second.mae):.2f} W ({second.mae:.2f} W, not {first.mae:.2f} W)"
        )
        if abs(first.mae - second.mae) <= SAME_ERROR * max(first.mae, second.mae):
            equal.append(f"on {SPLIT_WORDS[name]} ({first.mae:.2f} W and {second.mae:.2f} W)")
        else:
            (better if second.mae < first.mae else worse).append(text)
    sentences = [
        f"B is {word} {' and '.join(texts)}"
        for word, texts in (("better", better), ("worse", worse), ("about as good as A", equal))
        if texts
    ]
    if single:
        sentences.append(f"The error was measured {' and '.join(single)}")
    if never:
        sentences.append(f"No error was measured on {' or '.join(never)}")
    return sentences


def _common(error: CommonError) -> str:
    difference = error.second - error.first
    text = (
        f"On {error.samples} held-out samples that A and B have in common ({SPLIT_WORDS[error.split]}, "
        f"{error.component}), the mean error is {error.first:.2f} W with A and {error.second:.2f} W with B"
    )
    if abs(difference) <= SIGNIFICANT * error.standard_error:
        return f"{text}: the difference is within the noise of {SIGNIFICANT * error.standard_error:.2f} W"
    return f"{text}: {'B' if difference < 0 else 'A'} is better by {abs(difference):.2f} ± {error.standard_error:.2f} W"


def _counts(pairs: Sequence[Pair]) -> str:
    both = [pair for pair in pairs if pair.only is None]
    numbers = {side: sum(pair.better == side for pair in both) for side in ("A", "B")}
    only = {side: sum(pair.only == side for pair in pairs) for side in ("A", "B")}
    text = (
        f"{_models(len(both))} {'is' if len(both) == 1 else 'are'} in both: on the hardest split that was "
        f"measured for A and B, A has the lower error in {numbers['A']}, B in {numbers['B']}"
    )
    more = [f"{_models(count)} only in {side}" for side, count in only.items() if count]
    return text + (f"; {' and '.join(more)}" if more else "") + "."


def _seen(side: Side) -> str:
    if (seen := side.seen) is None:
        return ""
    counts = ((seen.samples, "sample"), (seen.nodes, "node"), (seen.recordings, "recording"), (seen.days, "day"))
    numbers = [f"{count:,} {name}{'' if count == 1 else 's'}" for count, name in counts]
    return f"{side.letter} was trained on {', '.join(numbers[:-1])} and {numbers[-1]}."


def _models(count: int) -> str:
    return f"{count:,} model{'' if count == 1 else 's'}"
