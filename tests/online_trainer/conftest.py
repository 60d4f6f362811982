"""A Prometheus server with a simulated recording."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("sklearn")

from support.online_trainer import Content, shifting_recording
from support.prometheus_process import PrometheusProcess, prometheus


@pytest.fixture(scope="session")
def content() -> Content:
    """35 minutes of one machine, whose power shifts by 15 % after 15 minutes."""
    return shifting_recording()


@pytest.fixture(scope="session")
def server(content: Content, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusProcess]:
    """A real Prometheus server that holds the recording."""
    with prometheus(tmp_path_factory.mktemp("prometheus"), content) as process:
        yield process
