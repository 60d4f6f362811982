"""Run the commands in the README and the documentation, and compare their output with the output in the pages.

Each page gets its own working folder, and runs from its first block to its last block. Run one page with
`pytest tests/cli/test_documentation.py -k NAME`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.doc_blocks import page_name, pages, read_blocks
from support.doc_shell import Setups, run_page

pytest.importorskip("sklearn")

RUN = [path for path in pages() if any(block.commands for block in read_blocks(path.read_text(encoding="utf-8")))]


@pytest.fixture(scope="session")
def setups(tmp_path_factory: pytest.TempPathFactory) -> Setups:
    return Setups(tmp_path_factory.mktemp("setups"))


@pytest.mark.parametrize("page", [pytest.param(path, id=page_name(path)) for path in RUN])
def test_a_page_shows_what_its_commands_print(
    page: Path, tmp_path: Path, setups: Setups, record_property: Callable[[str, object], None]
) -> None:
    failures, counts = run_page(page.read_text(encoding="utf-8"), tmp_path / "page", setups)
    record_property("documentation", counts)
    assert not failures, "\n\n".join(f"{page_name(page)}, {failure}" for failure in failures)
    assert counts["commands"] > 0
