"""Tests of defective models, providers and stores: replies are still valid for Kepler, and other models are used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest
from support.estimator_clients import REQUEST, WATTS
from support.estimator_process import running_estimator
from support.linear_models import ALL, publish
from support.malformed_documents import CHANGES, malformed

from kepler_core.errors import NoModelError
from kepler_core.models.twins import TwinnedModel
from kepler_core.selection import ModelRequest
from kepler_core.store.local import LocalStore
from kepler_servers.estimator.counters import Counters
from kepler_servers.estimator.loaded_model import Check, LoadedModel
from kepler_servers.estimator.model_cache import CacheEntry, ModelCache
from kepler_servers.estimator.model_providers import ModelOffer
from kepler_servers.estimator.request import WattsRequest, read_watts_request
from kepler_servers.estimator.request_handler import RequestHandler

ROWS = 40


@attrs.frozen
class DefectiveModel:
    """A model whose evaluation raises an exception that is not a `KeplerError`."""

    components: tuple[str, ...] = ("package",)
    name: str = "Defective_0"

    def columns(self, values: Any, features: Any) -> Any:
        raise ZeroDivisionError("in a library")


def request_for(output_type: str) -> WattsRequest:
    body = {
        "metrics": ["bpf_cpu_time_ms"],
        "values": [[1.0]] * ROWS,
        "output_type": output_type,
        "source": "intel_rapl",
    }
    request = read_watts_request(json.dumps(body).encode())
    assert isinstance(request, WattsRequest)
    return request


def reply_of_defective_model(output_type: str) -> dict[str, Any]:
    cache = ModelCache([], machine_spec={}, refresh_seconds=60.0, on_search_end=lambda: None)
    handler = RequestHandler(cache, Counters(), reply_limit=4096, about={})
    offer = ModelOffer("a store", "Defective_0", "digest", {}, {}, {})
    model: Any = DefectiveModel()
    loaded = LoadedModel(model, offer, "a store", None, 0.0, Check(TwinnedModel(model)))
    reply: dict[str, Any] = json.loads(handler.finish(request_for(output_type), CacheEntry(loaded=loaded)))
    return reply


def test_dynpower_gets_a_zero_for_each_row() -> None:
    reply = reply_of_defective_model("DynPower")
    assert reply["powers"]["package"] == [0] * ROWS
    assert "ZeroDivisionError" in reply["msg"]


def test_abspower_gets_no_powers() -> None:
    reply = reply_of_defective_model("AbsPower")
    assert reply["powers"] == {}
    assert "ZeroDivisionError" in reply["msg"]


class DefectiveProvider:
    """A model provider. All its methods raise an exception that is not a `KeplerError`."""

    name = "defective"

    def offer(self, request: ModelRequest) -> ModelOffer:
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")

    def changed(self) -> bool:
        raise KeyError("x")


class EmptyProvider:
    """A model provider without models. It counts the calls of `offer`."""

    name = "empty"

    def __init__(self) -> None:
        self.asked = 0

    def offer(self, request: ModelRequest) -> ModelOffer:
        self.asked += 1
        raise NoModelError("none here", {})

    def changed(self) -> bool:
        return False


def test_the_search_goes_on_after_a_defective_provider() -> None:
    empty = EmptyProvider()
    cache = ModelCache([DefectiveProvider(), empty], machine_spec={}, refresh_seconds=60.0, on_search_end=lambda: None)
    key = request_for("AbsPower").key
    entry = cache.entry(key)
    assert not cache._any_changed()
    cache._search(key)
    assert empty.asked == 1
    assert not entry.searching
    assert "defective: a defect: UnicodeDecodeError" in entry.problem
    assert "none here" in entry.problem


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the good models `ALL`, and with one broken pipeline for each kind of malformed document."""
    root = tmp_path_factory.mktemp("poisoned") / "store"
    publish(root, *ALL)
    for change in CHANGES:
        LocalStore(root)._publish(change, malformed(change), None)
    return root


def test_an_estimator_serves_the_good_models_of_a_store(poisoned: Path, tmp_path: Path) -> None:
    with running_estimator(tmp_path / "e.sock", "-s", poisoned) as estimator:
        estimator.wait_answer(REQUEST, WATTS)
