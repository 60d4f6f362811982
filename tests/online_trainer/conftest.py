"""A Prometheus server with a simulated recording."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from support.prometheus_process import PrometheusProcess, prometheus

Content = Mapping[str, Sequence[Mapping[str, Any]]]


@pytest.fixture(scope="session")
def content() -> Content:
    """35 minutes of one machine, whose power shifts by 15 % after 15 minutes."""
    # imported here: without the extra [online], the test modules are skipped, but this file is still read
    from support.online_trainer import shifting_recording

    return shifting_recording()


@pytest.fixture(scope="session")
def server(content: Content, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusProcess]:
    """A real Prometheus server that holds the recording."""
    with prometheus(tmp_path_factory.mktemp("prometheus"), content) as process:
        yield process
