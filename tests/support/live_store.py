"""A store that changes while a model server serves it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kepler_core.store.local import VERSIONS, LocalStore
from support.model_server import MINIMAL, checked_weights, total
from support.process import wait_for
from support.server_process import Answer, ServerProcess
from support.small_pipelines import SmallModel, linear, pipeline


class LiveStore:
    """A model store and the model server that serves it."""

    def __init__(self, store: LocalStore, server: ServerProcess) -> None:
        self.store = store
        self.server = server

    def publish(self, name: str, *models: SmallModel, bias: float | None = None) -> int:
        """Publish a pipeline with `models`, or with one model whose bias is `bias`. Return the version."""
        if not models:
            assert bias is not None
            models = (SmallModel(weights={"package": linear(bias)}),)
        return self.store.publish(name, pipeline(*models))

    def ask(self, name: str, **change: Any) -> Answer:
        """Request weights of a model of the pipeline `name`. `change` adds or replaces keys of the request."""
        return self.server.post({**MINIMAL, "weight": True, "pipeline_name": name, **change})

    def bias(self, name: str) -> float | None:
        """Return the bias of the model that the server selects, or None if the server has no model."""
        answer = self.ask(name)
        if answer.status == 404:
            return None
        return float(checked_weights(answer)["package"]["All_Weights"]["Bias_Weight"])

    def wait_for_bias(self, name: str, bias: float | None) -> None:
        wait_for(lambda: self.bias(name) == bias, f"{name} with {bias} is not served: {self.server.log}")

    def wait_broken(self, name: str) -> str:
        """Wait until health, metrics and log report the pipeline as broken, and return the reported reason."""
        wait_for(lambda: name in self.health()["broken"], f"{name} is not reported as broken")
        health = self.health()
        assert health["status"] == "degraded"
        assert total(self.server.metrics(), "kepler_model_server_pipeline_broken", pipeline=name) == 1
        assert any(name in line and "ERROR" in line for line in self.server.log.splitlines()), self.server.log
        return str(health["broken"][name])

    def wait_not_broken(self, *names: str) -> None:
        wait_for(lambda: not {*names} & {*self.health()["broken"]}, f"{names} are still reported as broken")

    def health(self) -> Any:
        return self.server.get("/healthz").json()

    def put_version(self, name: str, change: Callable[[Path], None]) -> None:
        """Copy version 1 of a pipeline, change the copy, and make it the current version 2 without any checks."""
        versions = self.store.root / VERSIONS / name
        shutil.copytree(versions / "1", versions / "2")
        change(versions / "2")
        os.symlink(os.path.join(VERSIONS, name, "2"), self.store.root / f".{name}")
        os.replace(self.store.root / f".{name}", self.store.root / name)


def flip(path: Path, position: int = 40) -> None:
    """Invert the bits of one byte of a file."""
    content = bytearray(path.read_bytes())
    content[position] ^= 0xFF
    path.write_bytes(content)
