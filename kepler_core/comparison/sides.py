"""The sides A and B of a comparison. Each side is a version of a pipeline: its models, with the errors they state."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

import attrs

from kepler_core.errors import KeplerError
from kepler_core.honesty.document import Honesty, Seen, SplitErrors, SplitName, read_honesty
from kepler_core.honesty.interval import widest_half_width
from kepler_core.models.power_model import HELD_OUT_FILE, METADATA_FILE
from kepler_core.pipeline.held_out_samples import HeldOutSamples, read_held_out_samples
from kepler_core.store.models import StoredModel, read_models
from kepler_core.store.snapshot import Snapshot
from kepler_core.urls import shown_location

SideName = Literal["A", "B"]

NO_HELD_OUT_SAMPLES = (
    "keeps no predictions for held-out samples: it was trained by an earlier version, with keep_rows: 0, or was "
    "recalibrated"
)

Key = tuple[str, str, str, str]
"""Energy source, output type, feature group and trainer of a model."""


class SideModel:
    """A model of one side of a comparison, with the errors in the block `honesty` of its metadata.

    If this block is malformed, `problem` is the reason.
    """

    def __init__(self, stored: StoredModel) -> None:
        self.stored = stored
        self.honesty: Honesty | None = None
        self.problem: str | None = None
        """Why the errors on the splits (kinds of held-out data) are not known; None if they are known."""
        try:
            self.honesty = read_honesty(stored.metadata)
            if self.honesty is None:
                self.problem = "states no errors by split: it was not trained by Kepler Core 0.1 or later"
        except KeplerError as error:
            self.problem = str(error)

    @property
    def key(self) -> Key:
        """The attributes that identify the model among the models of one node type."""
        return (self.stored.source, self.stored.output_type, self.stored.feature_group, self.stored.trainer)

    @property
    def errors(self) -> dict[SplitName, SplitErrors]:
        """The errors on the splits that were measured."""
        splits = {} if self.honesty is None else self.honesty.splits
        return {name: errors for name, errors in splits.items() if errors is not None}

    @property
    def half_width(self) -> float | None:
        """The largest typical half-width of all components in watts; None if the model has no intervals."""
        return None if self.honesty is None else widest_half_width(self.honesty)

    @cached_property
    def held_out(self) -> HeldOutSamples | str:
        """The stored predictions of the model for held-out samples, or the reason why there are none."""
        snapshot, name = self.stored.snapshot, f"{self.stored.path}/{HELD_OUT_FILE}"
        if name not in snapshot.names:
            return NO_HELD_OUT_SAMPLES
        try:
            return read_held_out_samples(snapshot.read(name), name)
        except KeplerError as error:
            return f"its predictions for held-out samples cannot be read: {error}"

    def as_dict(self) -> dict[str, Any]:
        """Return the model as a JSON object."""
        return {
            "path": self.stored.path,
            "mae": self.stored.scores.get("mae"),
            "splits": self.errors,
            "hardest": None if self.honesty is None else self.honesty.hardest,
            "half_width": self.half_width,
            "seen": None if self.honesty is None else self.honesty.seen,
            "problem": self.problem,
        }


@attrs.frozen(eq=False)
class Side:
    """One side of a comparison: a version of a pipeline."""

    letter: SideName
    name: str
    """`PIPELINE` or `PIPELINE@VERSION`, as the user has named it."""
    location: str
    """Location of the store, without secrets."""
    snapshot: Snapshot
    metadata: Mapping[str, Any]
    """Content of the pipeline's `metadata.json`; empty if it has none."""
    models: tuple[SideModel, ...]

    @property
    def seen(self) -> Seen | None:
        """Description of the training data of the model with the most training samples; None if no model has one."""
        blocks = [model.honesty.seen for model in self.models if model.honesty is not None]
        return max(blocks, key=lambda seen: seen.samples, default=None)

    @property
    def node_types(self) -> set[int]:
        """The numbers of the node types that have models."""
        return {model.stored.node_type for model in self.models}

    def part(self, key: str) -> Mapping[str, Any]:
        """Return a JSON object in the pipeline's metadata; an empty one if the metadata have no such object."""
        value = self.metadata.get(key)
        return value if isinstance(value, dict) else {}

    def as_dict(self) -> dict[str, Any]:
        """Return the side as a JSON object, without its models."""
        updated = self.metadata.get("last_update_time")
        return {
            "name": self.name,
            "store": self.location,
            "version": self.snapshot.version,
            "updated": updated if isinstance(updated, str) else None,
            "models": len(self.models),
            "seen": self.seen,
        }


def read_side(letter: SideName, name: str, location: str, snapshot: Snapshot) -> Side:
    """Read one side of a comparison. Raises `StoreError` if the version is incomplete or damaged."""
    models = tuple(map(SideModel, read_models(snapshot)))
    metadata = snapshot.read_json(METADATA_FILE) if METADATA_FILE in snapshot.names else {}
    return Side(letter, name, shown_location(location), snapshot, metadata, models)
