"""Tests of the errors of Kepler Core: their fields, their text, and the class tree in the module's docstring."""

from __future__ import annotations

import inspect
import pickle

import pytest

from kepler_core import errors
from kepler_core.errors import (
    KeplerError,
    MissingExtraError,
    NoModelError,
    PipelineError,
    PrometheusError,
    RequestError,
    UnknownPluginError,
    VersionTakenError,
    path_text,
)


def test_the_text_has_the_document_the_path_and_the_message() -> None:
    error = PipelineError("'x' is not a number", path=("dyn_trainers", 2, "args", "depth"), document="p.yaml")
    assert str(error) == "p.yaml: dyn_trainers[2].args.depth: 'x' is not a number"
    assert (error.message, error.path) == ("'x' is not a number", ("dyn_trainers", 2, "args", "depth"))
    assert str(PipelineError("nested too deeply", document="p.yaml")) == "p.yaml: nested too deeply"
    assert str(KeplerError("it failed")) == "it failed"


def test_a_request_error_has_its_key() -> None:
    error = RequestError("trainer.isolator", "unknown")
    assert str(error) == "trainer.isolator: unknown"
    assert (error.key, error.message) == ("trainer.isolator", "unknown")


@pytest.mark.parametrize(
    ("path", "text"), [((), ""), (("a",), "a"), (("a", "b"), "a.b"), (("a", 0, 1, "b"), "a[0][1].b")]
)
def test_path_text(path: tuple[str | int, ...], text: str) -> None:
    assert path_text(path) == text


@pytest.mark.parametrize(
    "error",
    [
        PipelineError("wrong", path=("a", 1), document="d"),
        RequestError("key", "wrong"),
        UnknownPluginError("kepler.trainers", "X", "unknown trainer 'X'"),
        VersionTakenError("p", 2),
        NoModelError("none", {"candidates": []}),
        PrometheusError("no answer", "unreachable"),
        MissingExtraError("training", "train", "pandas"),
    ],
)
def test_errors_can_be_sent_to_another_process(error: KeplerError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


def test_the_tree_of_the_documentation_lists_every_error() -> None:
    documented: dict[str, str] = {}
    parents: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        name = line.lstrip(" │├└─").split(" ")[0]
        if not (line.startswith("    ") and name.endswith("Error")):
            continue
        depth = (line.index(name) - 4) // 4
        parents[depth:] = [name]
        documented[name] = parents[depth - 1] if depth else "Exception"
    defined = {
        name: kind.__bases__[0].__name__
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, KeplerError)
    }
    assert documented == defined
