"""Requests and small catalogues for the tests of selection."""

from __future__ import annotations

from typing import Any

import pytest

from kepler_core.errors import NoModelError, RequestError
from kepler_core.selection import Catalogue, ModelRequest
from kepler_core.selection.filters import parse_filter
from support.small_pipelines import BPF, COUNTERS, SmallModel, pipeline
from support.small_pipelines import catalogue as make_catalogue

ALL_METRICS = (*COUNTERS, *BPF)

HASWELL = {"processor": "intel_xeon_e5_2630v3", "cores": 32, "chips": 2, "memory": 64, "frequency": 3200}
ICELAKE = {"processor": "intel_xeon_platinum_8358", "cores": 128, "chips": 2, "memory": 512, "frequency": 3400}
EPYC = {"processor": "amd_epyc_7763", "cores": 128, "chips": 1, "memory": 512, "frequency": 3500}
MACHINES = {0: HASWELL, 1: ICELAKE, 2: EPYC}
"""Machine spec of each node type, by its number."""


def request_for(**keys: Any) -> ModelRequest:
    """Return a request for a model. `keys` are the keys of the request.

    By default, the request is for an AbsPower model and lists all metrics. The value of `filter` can be a parsed
    filter or text.
    """
    keys.setdefault("output_type", "AbsPower")
    keys.setdefault("metrics", ALL_METRICS)
    if isinstance(keys.get("filter"), str):
        keys["filter"] = parse_filter(keys["filter"])
    return ModelRequest(**keys)


def chosen_path(catalogue: Catalogue, **keys: Any) -> str:
    """Return the path of the selected model, without the first folders, which are the same in most tests."""
    path = catalogue.select(request_for(**keys)).model.path
    return path.removeprefix("rapl-sysfs/").removeprefix("AbsPower/").removeprefix("BPFOnly/")


def no_model_message(catalogue: Catalogue, **keys: Any) -> str:
    """Return the message of the `NoModelError` that a request raises. Check the explanation in the error."""
    with pytest.raises(NoModelError) as caught:
        catalogue.select(request_for(**keys))
    message = str(caught.value)
    assert "\n" not in message
    candidates = caught.value.explanation["candidates"]
    assert candidates["considered"] == len(catalogue.models)
    assert sum(drop["count"] for drop in candidates["dropped"]) <= len(catalogue.models)
    return message


def request_error(catalogue: Catalogue, **keys: Any) -> str:
    """Return the message of the `RequestError` that a request raises."""
    with pytest.raises(RequestError) as caught:
        catalogue.select(request_for(**keys))
    return str(caught.value)


def catalogue_of_machines(**more: Any) -> Catalogue:
    """Return a catalogue with one model for each machine in `MACHINES`.

    The last machine's model has the lowest error.
    """
    models = (SmallModel(node_type=number, mae=3 - number, **more) for number in MACHINES)
    return make_catalogue(made=pipeline(*models, node_types=MACHINES))


def node_type_match(catalogue: Catalogue, **keys: Any) -> tuple[str, int]:
    """Select a model. Return how its node type matches the request, and the number of the node type."""
    selection = catalogue.select(request_for(**keys))
    node_type = selection.explain()["node_type"]
    assert node_type["number"] == selection.model.node_type
    assert node_type["machine_spec"] == dict(selection.model.machine_spec)
    return node_type["match"], node_type["number"]
