"""Fixtures: a simulated recording, and a Prometheus server that contains it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from support.prometheus_process import PrometheusProcess, prometheus

Content = Mapping[str, Sequence[Mapping[str, Any]]]


@pytest.fixture(scope="session")
def content() -> Content:
    """A simulated recording of one machine over 35 minutes. The machine's power shifts by 15 % after 15 minutes."""
    # `support.online_trainer` is imported here, because pytest imports this conftest.py even if the extra [online] is
    # missing and all tests are skipped.
    from support.online_trainer import shifting_recording

    return shifting_recording()


@pytest.fixture(scope="session")
def server(content: Content, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusProcess]:
    """A real Prometheus server that contains the samples of the recording `content`."""
    with prometheus(tmp_path_factory.mktemp("prometheus"), content) as process:
        yield process
