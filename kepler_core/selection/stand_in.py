"""Let linear weights stand in for models that contain only pickles, because Kepler Core never loads pickles.

The public kepler-model-db has models of many trainers as pickles, and the weights of its linear models as JSON. If a
request's best model contains only pickles, Kepler Core evaluates linear weights in place of this model.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import attrs

from kepler_core.errors import NoModelError
from kepler_core.selection.explanation import Selection
from kepler_core.selection.request import ModelRequest

WHAT_TO_DO = (
    "use the archive or the weights (.json) of an SGDRegressorTrainer model, or train a model with kepler-model train"
)


def select_loadable(select: Callable[[ModelRequest], Selection], request: ModelRequest) -> Selection:
    """Select the best model that Kepler Core can load.

    If the request names a trainer, perhaps no model of this trainer can be loaded. Then linear weights of another
    trainer are used in place of the trainer's best model. These weights belong to the same pipeline and node type as
    this model or, if there are none, to the most similar node type. They meet all other conditions of the request.
    `select` selects the best model that meets all conditions of a request. Raises `NoModelError` if neither a model nor
    linear weights fit.
    """
    anything = attrs.evolve(request, portable=False)
    try:
        selection = select(request)
    except NoModelError as error:
        if request.trainer is None:
            raise NoModelError(_advice(select, anything, error), error.explanation) from None
        wanted = select(anything)
        if wanted.model.loadable:
            raise
        return attrs.evolve(_linear(select, wanted, anything, error), stands_in_for=wanted.model)
    if selection.model.portable:
        return selection
    wanted = select(anything)
    return selection if wanted.model.loadable else attrs.evolve(selection, stands_in_for=wanted.model)


def _linear(
    select: Callable[[ModelRequest], Selection], wanted: Selection, request: ModelRequest, error: NoModelError
) -> Selection:
    """Return a selection whose linear weights stand in for the model that `wanted` has selected."""
    linear = attrs.evolve(request, trainer=None, linear_weights=True)
    of_node_type = attrs.evolve(linear, pipeline=wanted.model.pipeline, node_type=wanted.model.node_type)
    with suppress(NoModelError):
        selection = select(attrs.evolve(of_node_type, loose_node_type=False))
        return attrs.evolve(selection, node_type=wanted.node_type)
    try:
        return select(linear)
    except NoModelError as linear_error:
        raise NoModelError(f"{error.message}; {linear_error.message}; {WHAT_TO_DO}", error.explanation) from None


def _advice(select: Callable[[ModelRequest], Selection], request: ModelRequest, error: NoModelError) -> str:
    """Return the message of `error`. If all models that fit contain only pickles, add what the user can do."""
    try:
        wanted = select(request)
    except NoModelError:
        return error.message
    return error.message if wanted.model.loadable else f"{error.message}; {WHAT_TO_DO}"
