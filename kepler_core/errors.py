"""What can go wrong, in words that a user can act on.

Every error that is the user's to mend derives from `KeplerError`: one line that says what is wrong,
where, and what would be right. The command line prints that line and exits with `exit_code`.
Anything else that is raised is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

EXIT_SOME_FAILED = 3
"""Training published models, but at least one trainer failed."""


class KeplerError(Exception):
    """Base of the errors that a user can mend. `str(error)` is one line."""

    exit_code = 1


class UsageError(KeplerError):
    """The command was called with arguments that cannot be right."""

    exit_code = 2


class RecordingError(KeplerError):
    """A recording cannot be read, or holds nothing that could be used."""


class PipelineError(KeplerError):
    """A pipeline file is wrong; the message names the key's path."""


class PluginError(KeplerError):
    """A plugin is unknown, ambiguous, cannot be imported, or breaks its contract."""


class UnknownPluginError(PluginError):
    """No installed plugin has that name."""

    def __init__(self, namespace: str, name: str, message: str) -> None:
        super().__init__(message)
        self.namespace = namespace
        self.name = name


class HookError(PluginError):
    """A listener that is marked strict has raised."""


class ModelError(KeplerError):
    """A model cannot be exported, loaded or applied."""


class StoreError(KeplerError):
    """The model store cannot be read or written."""


class VersionTakenError(StoreError):
    """Somebody else published a version meanwhile."""

    def __init__(self, pipeline: str, version: int) -> None:
        super().__init__(f"version {version} of pipeline {pipeline!r} was published by somebody else meanwhile")


class RequestError(UsageError):
    """A request for a model that cannot be right. `key` is the part of it that is wrong."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(f"{key}: {message}")
        self.key = key


class NoModelError(StoreError):
    """No model of the store fits a request. `explanation` says what was considered."""

    def __init__(self, message: str, explanation: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.explanation = explanation


class TrainingError(KeplerError):
    """Nothing could be trained."""


class PrometheusError(KeplerError):
    """A Prometheus server does not answer, or not what was asked for.

    `kind` is "unreachable", "unavailable" (an error of the server that may pass), "partial" (half an
    answer), "TLS", "access", "too large" (ask for less), "refused" or "answer" (it is no such server).
    """

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.retry_after: float | None = None
        """Seconds after which the server wants to be asked again."""

    @property
    def may_pass(self) -> bool:
        """Whether the same question may be answered later."""
        return self.kind in ("unreachable", "unavailable", "partial")


class MissingExtraError(KeplerError):
    """A part of the program needs an optional dependency that is not installed."""

    def __init__(self, what: str, extra: str, missing: str) -> None:
        super().__init__(f"{what} needs {missing}: pip install 'kepler-core[{extra}]'")
        self.extra = extra


_EXTRA_OF = {
    **dict.fromkeys(
        ("pandas", "sklearn", "scipy", "joblib", "skl2onnx", "onnx", "onnxmltools", "threadpoolctl", "matplotlib"),
        "train",
    ),
    "urllib3": "prometheus",
    "pyarrow": "online",
    "xgboost": "xgboost",
    "dask": "dask",
    "distributed": "dask",
    "fsspec": "s3",
    "s3fs": "s3",
}


def missing_extra(error: ModuleNotFoundError, what: str) -> MissingExtraError | None:
    """The error that names the extra which brings a missing module; None for a module that is not
    one of our dependencies."""
    module = (error.name or "").partition(".")[0]
    extra = _EXTRA_OF.get(module)
    return None if extra is None else MissingExtraError(what, extra, module)


def modules_of_extra(extra: str) -> list[str]:
    """The modules that an extra of kepler-core brings."""
    return [module for module, of in _EXTRA_OF.items() if of == extra]


_MOST_NAMED = 20


def close_matches(name: str, known: Iterable[str]) -> str:
    """A half sentence to end a message about an unknown name: the close matches, or all names."""
    names = sorted(set(known))
    if not names:
        return "there are none"
    by_folded = {candidate.casefold(): candidate for candidate in names}
    found = difflib.get_close_matches(name.casefold(), by_folded, n=3, cutoff=0.55)
    found += [f for f in by_folded if name and name.casefold() in f and f not in found][:3]
    if found:
        return "did you mean " + " or ".join(by_folded[f] for f in found) + "?"
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return "known: " + ", ".join(names[:_MOST_NAMED]) + more
