"""The plugins that a pipeline was trained with, and the distributions that install them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kepler_core.errors import KeplerError, UnknownPluginError
from kepler_core.models.power_model import METADATA_FILE
from kepler_core.pipeline.spec import PipelineSpec
from kepler_core.plugins import registry
from kepler_core.plugins.entries import PluginEntry
from kepler_core.plugins.hooks import hook_entries
from kepler_core.plugins.settings import OWN
from kepler_core.recording.observations import Observations
from kepler_core.store.store import Store


def used_plugins(
    spec: PipelineSpec, observations: Observations, listeners: Sequence[str], sources: Iterable[str] = ()
) -> list[dict[str, Any]]:
    """Return a description of each plugin and each listener that takes part in a training.

    `sources` are energy sources of models. If the observations come from a table without times, the observations do not
    name their energy sources.
    """
    wanted: list[tuple[registry.Registry[Any], str]] = [
        *((registry.trainers, trainer.name) for trainer in (*spec.abs_trainers, *spec.dyn_trainers)),
        (registry.extractors, spec.extractor.name),
        (registry.isolators, spec.isolator.name),
        *((registry.energy_sources, source) for source in {*observations.sources, *sources}),
        *((registry.metric_schemas, schema) for schema in observations.schemas),
    ]
    entries: set[PluginEntry] = set()
    for plugins, name in wanted:
        bare, distribution = name.rpartition(":")[2], name.rpartition(":")[0]
        claims = plugins.claims(bare, distribution)
        # If several distributions have a metric schema or energy source with this name, Kepler Core's own is used.
        # `claims` is empty if the plugin was uninstalled. This can happen only to a metric schema: the online trainer
        # stores samples with the name of their schema.
        own = [entry for entry in claims if entry.distribution == OWN]
        entries.update((own or list(claims))[:1])
    entries |= {entry for entry in hook_entries() if entry.full_name in listeners}
    return [described(entry) for entry in sorted(entries)]


def described(entry: PluginEntry) -> dict[str, Any]:
    """Return the description of a plugin in a pipeline's `metadata.json`."""
    return {
        "namespace": entry.namespace,
        "name": entry.name,
        "aliases": list(entry.aliases),
        "distribution": entry.distribution,
        "version": entry.version,
    }


def requirements(plugins: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return sorted pip requirements (`distribution==version`) for plugins in a pipeline's metadata."""
    return sorted({f"{plugin['distribution']}=={plugin['version']}" for plugin in plugins})


def where_it_was(error: UnknownPluginError, store: Store) -> str:
    """Return the pip command for a missing plugin, as the end of a message.

    The command installs the distribution with which a pipeline in the store was trained. Return "" if no pipeline
    in the store was trained with the plugin.
    """
    bare = error.name.rpartition(":")[2]
    for pipeline in _pipelines(store):
        try:
            metadata = store.snapshot(pipeline).read_json(METADATA_FILE)
        except KeplerError:
            continue
        for plugin in metadata.get("plugins") or ():
            if not (isinstance(plugin, dict) and plugin.get("namespace") == error.namespace):
                continue
            if bare == plugin.get("name") or bare in (plugin.get("aliases") or ()):
                distribution, version = plugin.get("distribution"), plugin.get("version")
                return (
                    f"; pipeline {pipeline!r} in {store.location} was trained with it, from {distribution} {version}: "
                    f"pip install {distribution}=={version}"
                )
    return ""


def _pipelines(store: Store) -> list[str]:
    try:
        return store.pipelines() if store.exists() else []
    except KeplerError:
        return []
