"""Fixtures: an offline trainer that tests share, and a folder for tests that start their own trainer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.trainer_server import Breakpoints, TrainerFolder, TrainerServer, request, training


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> TrainerFolder:
    """Folder with the state and the model store of the shared server."""
    return TrainerFolder(tmp_path_factory.mktemp("trainer"))


@pytest.fixture(scope="session")
def server(folder: TrainerFolder) -> Iterator[TrainerServer]:
    """Offline trainer that several tests share. Tests that stop or disturb a trainer start their own."""
    with training(folder.root, "--max-body", "4MiB", "--fits", "1", "--jobs", "2") as running:
        yield running


@pytest.fixture(scope="session")
def trained(server: TrainerServer) -> str:
    """URL of a job that the shared server has trained successfully."""
    url = server.submit(request(name="trained"), Idempotency_Key="trained")
    server.until(url, "done")
    return url


@pytest.fixture
def own(tmp_path: Path) -> TrainerFolder:
    """Folder for the state and the model store of a server that the test itself starts."""
    return TrainerFolder(tmp_path)


@pytest.fixture
def breakpoints(tmp_path: Path) -> Breakpoints:
    """Breakpoints for a server that the test itself starts. They pause the server's trainings at chosen hooks."""
    return Breakpoints(tmp_path / "breakpoints")
