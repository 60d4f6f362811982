"""Test which model the power source `machine-model` uses while a model server cannot be reached."""

from __future__ import annotations

import threading
from typing import Any, cast

import pytest
from support.process import wait_for

from kepler_core.errors import MeterError
from kepler_servers.meter.sources import machine_model
from kepler_servers.meter.sources.machine_model import MachineModelSource


def test_the_model_in_use_stays_while_the_preferred_finder_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the model server fails, the meter keeps the server's model and does not change to a model of the store."""
    monkeypatch.setattr(machine_model, "REFRESH_SECONDS", 0.01)
    monkeypatch.setattr(machine_model, "RETRY_SECONDS", 0.01)
    calls = {"server": 0, "store": 0}
    up = threading.Event()

    def server(idle_known: bool) -> Any:
        calls["server"] += 1
        if not up.is_set():
            raise MeterError("no answer")
        return "model of the server"

    def store(idle_known: bool) -> Any:
        calls["store"] += 1
        return "model of the store"

    source = MachineModelSource([server, store], cast("Any", None))
    monkeypatch.setattr(source, "_make", lambda model: model)
    stop = threading.Event()
    thread = threading.Thread(target=source._search, args=(stop,))
    thread.start()
    try:
        wait_for(lambda: source._source == cast("Any", "model of the store"), "the store's model is not used")
        up.set()
        wait_for(lambda: source._source == cast("Any", "model of the server"), "the server's model is not used")
        up.clear()
        before = dict(calls)
        wait_for(lambda: calls["server"] > before["server"] + 3, "the server is not asked again")
        assert calls["store"] <= before["store"] + 1
        assert source._source == cast("Any", "model of the server")
    finally:
        stop.set()
        thread.join()
