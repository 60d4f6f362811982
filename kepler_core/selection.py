"""Which model of a store to use."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from kepler_core import registry
from kepler_core.errors import StoreError, close_matches
from kepler_core.store.store import ModelEntry, Store


def select(
    store: Store,
    *,
    source: str,
    output_type: str,
    features: Collection[str],
    pipeline: str | None = None,
    feature_group: str | None = None,
    trainer: str | None = None,
) -> ModelEntry:
    """The model with the lowest headline error among those that fit; `StoreError` says why none does.

    `features` are those that are available: a model fits if it needs no other.
    """
    source = registry.energy_sources.canonical(source)
    names = [pipeline] if pipeline is not None else store.pipelines()
    left = [model for name in names for model in store.models(name)]
    if not left:
        nowhere = "" if store.root.is_dir() else ": there is no such folder"
        raise StoreError(f"{store.root}: no models in it{nowhere}")
    if trainer is not None and trainer not in {model.metadata.get("trainer") for model in left}:
        # perhaps an alias; a stored model needs no plugin, so only now is one asked for
        trainer = registry.trainers.canonical(trainer)
    criteria: tuple[tuple[str, str | None, Callable[[ModelEntry], object]], ...] = (
        ("energy source", source, lambda m: m.source),
        ("output type", output_type, lambda m: m.output_type),
        ("feature group", feature_group, lambda m: m.feature_group),
        ("trainer", trainer, lambda m: m.metadata.get("trainer")),
    )
    for what, wanted, of in criteria:
        if wanted is None:
            continue
        there = {str(of(model)) for model in left}
        left = [model for model in left if of(model) == wanted]
        if not left:
            raise StoreError(f"{store.root}: no model of {what} {wanted!r}; {close_matches(wanted, there)}")
    fitting = [model for model in left if set(model.metadata["features"]) <= set(features)]
    if not fitting:
        missing = _fewest_missing(left, features)
        raise StoreError(f"{store.root}: no model fits the features that there are; missing: {', '.join(missing)}")
    return min(fitting, key=lambda model: (model.metadata["mae"], str(model.path)))


def _fewest_missing(models: Sequence[ModelEntry], features: Collection[str]) -> list[str]:
    return min(([f for f in model.metadata["features"] if f not in features] for model in models), key=len)
