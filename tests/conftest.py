"""Fixtures that several test modules use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from support.doc_blocks import page_name, pages, read_blocks
from support.paths import SHARED

from kepler_core.simulate import Simulation, recording

# derandomize: Hypothesis tries the same examples in each run. deadline=None: a busy machine must not fail a test.
settings.register_profile("kepler", deadline=None, derandomize=True, database=None)
settings.load_profile("kepler")

# By default, servers write to folders below /mnt. With MNT_PATH, tests do not write to /mnt of this machine.
os.environ["MNT_PATH"] = "/no-such-volume"

# Otherwise each training would write a report, which takes seconds. Tests of reports change this setting.
os.environ["KEPLER_REPORT"] = "false"

# Tests run in several processes. If each process used all cores, threads would wait for each other most of the time.
os.environ["OMP_NUM_THREADS"] = "1"

# A training without `--jobs` would start a worker process for each CPU. The imports of a worker process take more CPU
# time than the fits of most tests. Tests of worker processes set `--jobs`.
os.environ["LOKY_MAX_CPU_COUNT"] = "1"

SLOW = (
    "offline_trainer/test_training_interruptions*",
    "offline_trainer/test_training_requests*",
    "offline_trainer/test_training_jobs*",
    "pipeline/test_train*",
    "tables/test_table_training*",
    "profiler/test_machine_fit*",
    "online_trainer/test_retraining*",
    "online_trainer/test_kills*",
    "cli/test_accuracy_bench*",
    "cli/test_herd_bench*",
    "cli/test_chaos*",
    "cli/test_plot*",
    "deploy/test_containerfile*",
    "deploy/test_laptop*",
    "cli/test_health*",
    "cli/test_replay*",
    "cli/test_documentation.py",
    "plugins/test_plugin_distributions*",
    "plugins/test_third_party_plugins*",
    "plugins/test_plugin_checks*",
    "offline_trainer/*",
    "online_trainer/*",
    "estimator/*",
    "model_server/*",
    "plugins/test_registry*",
    "recording/test_query*",
    "cli/test_planted_secrets*",
    "cli/test_container_starts*",
    "plugins/test_broken_plugins*",
    "plugins/test_third_party_trainer*",
    "plugins/test_clashing_names*",
    "fuzz/*",
    "store/test_remote_store*",
    "store/test_store_commands*",
    "cli/test_recalibrate*",
    "plugins/test_report*",
    "plugins/test_decision_page*",
    "cli/test_store_models*",
    "pipeline/test_kept_rows*",
    "meter/test_serve_meter*",
    "meter/test_scraped_meter*",
    "pairs/test_pair_training*",
    "pairs/test_real_pairs*",
    "browser/test_chromium*",
    "pairs/test_pair_command*",
)
"""Test files that `make quick` leaves out: they train, start servers or install packages. The slowest are first."""


def slow_rank(item: pytest.Item) -> int:
    """Return the index of a test's file in `SLOW`, or `len(SLOW)` if the file is not listed there."""
    path = item.path.relative_to(Path(__file__).parent).as_posix()
    return next((rank for rank, pattern in enumerate(SLOW) if fnmatch(path, pattern)), len(SLOW))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests as `shared_data` and `slow`, and sort them so that the slowest test files run first.

    If a slow file ran last, one pytest-xdist worker would run it while all other workers are idle.
    """
    for item in items:
        if "recordings" in getattr(item, "fixturenames", ()):
            item.add_marker("shared_data")
        if slow_rank(item) < len(SLOW):
            item.add_marker("slow")
    items.sort(key=slow_rank)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Report how many tests that need the folder `../shared/data` ran, and how many were skipped."""
    ran, skipped = (
        {
            report.nodeid
            for outcome in outcomes
            for report in terminalreporter.stats.get(outcome, ())
            if "shared_data" in getattr(report, "keywords", ())
        }
        for outcomes in (("passed", "failed", "error", "xfailed", "xpassed"), ("skipped",))
    )
    if ran or skipped:
        terminalreporter.write_line(f"tests with shared data: {len(ran)} ran, {len(skipped)} skipped")
    for line in documentation_summary(terminalreporter):
        terminalreporter.write_line(line)


def documentation_summary(terminalreporter: Any) -> Iterator[str]:
    """Yield the number of documentation blocks that were run, and the reason for each block that was not run."""
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.stats.get(outcome, ())]
    counts = [value for report in reports for key, value in report.user_properties if key == "documentation"]
    if not counts:
        return
    commands, outputs, files = (sum(count[key] for count in counts) for key in ("commands", "outputs", "files"))
    yield f"documentation: {len(counts)} pages, {commands} commands run, {outputs} outputs compared, {files} files used"
    left_out = [
        f"  {page_name(path)}:{block.line}: {block.reason}"
        for path in pages()
        for block in read_blocks(path.read_text(encoding="utf-8"))
        if block.reason is not None
    ]
    yield f"documentation: {len(left_out)} blocks not run:"
    yield from left_out


@pytest.fixture(scope="session")
def recordings() -> Path:
    """Folder of real recordings, which are not part of the repository. If it is missing, the test is skipped."""
    folder = SHARED / "data" / "recordings"
    if not folder.is_dir():
        pytest.skip("the real recordings (../shared/data/recordings) are missing")
    return folder


@pytest.fixture
def small() -> dict[str, list[dict[str, Any]]]:
    """A small simulated recording. Each test gets a new copy, so that it can change the recording."""
    return recording(Simulation(containers=6, timestamps=120))
