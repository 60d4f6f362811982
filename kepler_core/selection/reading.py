"""Read the catalogue of a store's models."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from kepler_core.errors import StoreError
from kepler_core.selection.catalogue import ERROR_KEY, Catalogue
from kepler_core.selection.similarity import Spec, SpecTable
from kepler_core.store.models import NodeType, StoredModel, read_models, read_node_types
from kepler_core.store.snapshot import Snapshot
from kepler_core.store.store import Store


def read_catalogue(
    store: Store,
    *,
    pipelines: Collection[str] | None = None,
    compare: Callable[[Sequence[Spec]], SpecTable] | None = None,
    error_key: str = ERROR_KEY,
) -> Catalogue:
    """Read a catalogue with the models of all pipelines of a store, or only of the pipelines in `pipelines`.

    If `pipelines` is None, a pipeline that cannot be read is left out and listed in `Catalogue.broken`.
    Otherwise `StoreError` is raised if one of `pipelines` cannot be read. See `Catalogue` for `compare` and
    `error_key`.
    """
    models: list[StoredModel] = []
    node_types: dict[str, Mapping[int, NodeType]] = {}
    broken: dict[str, str] = {}
    for name in store.pipelines() if pipelines is None else pipelines:
        try:
            pipeline_models, types = read_pipeline_models(store.snapshot(name))
        except StoreError as error:
            if pipelines is not None:
                raise
            broken[name] = str(error)
        else:
            models += pipeline_models
            node_types[name] = types
    return Catalogue(models, node_types, broken, compare=compare, error_key=error_key, location=store.location)


def read_pipeline_models(snapshot: Snapshot, *, serving: bool = False) -> tuple[list[StoredModel], dict[int, NodeType]]:
    """Read the models and node types of one pipeline. See `store.models.read_models` for `serving`."""
    return read_models(snapshot, serving=serving), read_node_types(snapshot)
