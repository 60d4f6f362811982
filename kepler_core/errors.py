"""The errors that a user can correct.

Each of these errors derives from `KeplerError`. The text of an error is one line: what is wrong, where, and
what would be right. The command line prints that line and exits with the class's `exit_code`. Any other
exception is a defect of Kepler Core or of a plugin; the command line shows its traceback.

    KeplerError                     base class
    ├── UsageError                  wrong arguments of a command
    │   └── RequestError            wrong key in a request for a model or a training
    ├── RecordingError              unreadable or unusable recording
    ├── TableError                  unreadable or unusable table (CSV, Parquet)
    ├── PipelineError               wrong key in a pipeline file
    ├── PluginError                 plugin that cannot be found, imported or used
    │   ├── UnknownPluginError      name that no installed plugin has
    │   └── HookError               strict listener that raised
    ├── ModelError                  model that cannot be exported, loaded or applied
    ├── StoreError                  store that cannot be read or written
    │   ├── VersionTakenError       version that another process published first
    │   ├── NameTakenError          name of a folder that kepler-model has not published
    │   └── NoModelError            request that no model in the store fits
    ├── TrainingError               training without a usable model
    ├── MeterError                  meter that cannot measure or publish
    │   ├── CollectorError          features that cannot be measured on this machine
    │   └── OutputError             watts that cannot be published
    ├── PrometheusError             failed or unusable answer of a Prometheus server
    └── MissingExtraError           optional dependency that is not installed

Packages define further errors in the modules that raise them, derived from one of the classes above.

Code that handles an error reads the error's fields (`message`, `path`, `document`, `key`, `kind` …). It
never cuts or searches the error's text.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kepler_core.messages import first_of, printable

MAX_KEY_CHARACTERS = 200
"""Maximum number of characters of a key in an error message. Longer keys are cut."""
EXIT_SOME_FAILED = 3
"""Exit code of a training that published models, but in which at least one trainer failed."""


class KeplerError(Exception):
    """Base class of the errors that a user can correct.

    `str(error)` is one line: the document, the path and the message, separated by colons.
    """

    exit_code = 1

    def __init__(self, message: str, *, path: Sequence[str | int] = (), document: str = "") -> None:
        # Exception.__init__ is not called: it would replace `args`, the arguments that pickle passes to this
        # constructor when it restores the error.
        self.message = message
        """What is wrong, without the document and the path."""
        self.path = tuple(path)
        """Keys and list indices that lead to the wrong value in the document; empty for the whole document."""
        self.document = document
        """Name of the file or request that is wrong; empty if the error concerns no file and no request."""

    def __str__(self) -> str:
        return ": ".join(part for part in (self.document, path_text(self.path), self.message) if part)


class UsageError(KeplerError):
    """A command was called with wrong arguments."""

    exit_code = 2


class RequestError(UsageError):
    """A request for a model or a training has a wrong key."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message, path=(key,))
        self.key = key
        """Path of the wrong key, e.g. "trainer.isolator_args"; "body" if the whole request is wrong."""


class RecordingError(KeplerError):
    """A recording cannot be read, or contains no usable samples."""


class TableError(KeplerError):
    """A table of features and power cannot be read, or does not have the columns that are needed."""


class PipelineError(KeplerError):
    """A pipeline file is wrong. `document` is the name of the file, `path` the path of the wrong key."""


class PluginError(KeplerError):
    """A plugin is unknown or ambiguous, cannot be imported, or breaks its contract."""


class UnknownPluginError(PluginError):
    """A pipeline or command names a plugin that is not installed."""

    def __init__(self, namespace: str, name: str, message: str) -> None:
        super().__init__(message)
        self.namespace = namespace
        self.name = name


class HookError(PluginError):
    """A listener that is marked as strict raised an exception."""


class ModelError(KeplerError):
    """A model cannot be exported, loaded or applied."""


class StoreError(KeplerError):
    """The model store cannot be read or written."""


class NameTakenError(StoreError):
    """A pipeline cannot be published: a folder with its name exists already, which kepler-model has not published."""

    def __init__(self, folder: str) -> None:
        super().__init__(f"{folder} is a folder that was not published by kepler-model; choose another name")
        self.folder = folder
        """Path or URL of the folder."""


class VersionTakenError(StoreError):
    """Another process published the same version first."""

    def __init__(self, pipeline: str, version: int) -> None:
        super().__init__(f"version {version} of pipeline {pipeline!r} was published by another process meanwhile")


class NoModelError(StoreError):
    """No model in the store fits a request for a model. `explanation` lists the models that were considered."""

    def __init__(self, message: str, explanation: Mapping[str, Any], *, document: str = "") -> None:
        super().__init__(message, document=document)
        self.explanation = explanation


class TrainingError(KeplerError):
    """A training cannot produce a usable model."""


class MeterError(KeplerError):
    """Error: the meter cannot measure or publish the power of this machine."""


class CollectorError(MeterError):
    """Error: a collector cannot measure its features on this machine."""


class OutputError(MeterError):
    """Error: an output cannot publish watts."""


class PrometheusError(KeplerError):
    """A Prometheus server does not answer, or sends an answer that cannot be used."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind
        """"unreachable", "unavailable" (a temporary error of the server), "partial" (an incomplete answer),
        "TLS" (a TLS error), "access" (access denied), "too large" (the query asks for too many samples),
        "timeout" (the query exceeded the server's own time limit), "refused" (the server rejects the query),
        "answer" (the answer is not that of a Prometheus server) or "stopped" (the caller told the client to
        stop)."""
        self.retry_after: float | None = None
        """Seconds that the server wants the client to wait before it sends the query again; None if it states none."""
        self.rate_limited = False
        """Whether the server rejects the query only because it gets too many requests (status 429)."""
        self.too_many_series = False
        """Whether a query of the kind "too large" has too many series, so that a shorter time range does not help."""

    @property
    def may_pass(self) -> bool:
        """Whether the error may be temporary, so that the same query may succeed later."""
        return self.kind in ("unreachable", "unavailable", "partial")


class MissingExtraError(KeplerError):
    """A function of Kepler Core needs an optional dependency that is not installed."""

    def __init__(self, what: str, extra: str, missing: str) -> None:
        super().__init__(f"{what} needs {missing}: pip install 'kepler-core[{extra}]'")
        self.extra = extra


def path_text(path: Iterable[str | int]) -> str:
    """Return a path of keys and list indices as text, e.g. `abs_trainers[0].args.n_estimators`."""
    text = ""
    for step in path:
        if isinstance(step, str):
            key = printable(step, MAX_KEY_CHARACTERS)
            text += f".{key}" if text else key
        else:
            text += f"[{step}]"
    return text


_EXTRA_OF = {
    **dict.fromkeys(
        (
            "pandas",
            "sklearn",
            "scipy",
            "joblib",
            "skl2onnx",
            "onnx",
            "onnxmltools",
            "threadpoolctl",
            "matplotlib",
            "jinja2",
        ),
        "train",
    ),
    "onnxruntime": "onnx",
    "urllib3": "prometheus",
    "pyarrow": "online",
    "xgboost": "xgboost",
    "dask": "dask",
    "distributed": "dask",
    "fsspec": "s3",
    "s3fs": "s3",
}


def missing_extra(error: ModuleNotFoundError, what: str) -> MissingExtraError | None:
    """Return the error for a missing module; it names the extra of Kepler Core that contains the module.

    Return None if no extra of Kepler Core contains the module.
    """
    module = (error.name or "").partition(".")[0]
    extra = _EXTRA_OF.get(module)
    return None if extra is None else MissingExtraError(what, extra, module)


def modules_of_extra(extra: str) -> list[str]:
    """Return the modules that an extra of Kepler Core installs."""
    return [module for module, owner in _EXTRA_OF.items() if owner == extra]


_MOST_NAMES_SHOWN = 20


def close_matches(name: str, known: Iterable[str]) -> str:
    """Return the end of an error message about an unknown name: similar known names, or all known names."""
    names = sorted(set(known))
    if not names:
        return "there are none"
    by_folded = {candidate.casefold(): candidate for candidate in names}
    matches = difflib.get_close_matches(name.casefold(), by_folded, n=3, cutoff=0.55)
    matches += [folded for folded in by_folded if name and name.casefold() in folded and folded not in matches][:3]
    if matches:
        return "did you mean " + " or ".join(by_folded[folded] for folded in matches) + "?"
    return "known: " + first_of(names, _MOST_NAMES_SHOWN)
