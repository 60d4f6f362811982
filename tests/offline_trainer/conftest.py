"""A server that all tests share which neither stop nor disturb it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.trainer_server import Breakpoints, TrainerFolder, TrainerServer, request, training


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> TrainerFolder:
    """The folder of the shared server."""
    return TrainerFolder(tmp_path_factory.mktemp("trainer"))


@pytest.fixture(scope="session")
def server(folder: TrainerFolder) -> Iterator[TrainerServer]:
    """The shared server."""
    with training(folder.root, "--max-body", "4MiB", "--fits", "1", "--jobs", "2") as running:
        yield running


@pytest.fixture(scope="session")
def trained(server: TrainerServer) -> str:
    """The URL of a job of the shared server that is done."""
    url = server.submit(request(name="trained"), Idempotency_Key="trained")
    server.until(url, "done")
    return url


@pytest.fixture
def own(tmp_path: Path) -> TrainerFolder:
    """The folder of a test's own server."""
    return TrainerFolder(tmp_path)


@pytest.fixture
def breakpoints(tmp_path: Path) -> Breakpoints:
    """Breakpoints for a test's own server."""
    return Breakpoints(tmp_path / "breakpoints")
