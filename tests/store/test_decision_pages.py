"""Test the HTML pages that a store keeps with the decisions of the online trainer."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from kepler_core.store import open_store
from kepler_core.store.decisions import MAX_PAGES


@pytest.mark.parametrize("protocol", ["file", "memory"])
def test_only_the_newest_pages_are_kept(protocol: str, tmp_path: Path) -> None:
    """Local and remote stores keep only the newest pages. In this test, fsspec's `memory` is the remote store."""
    root = f"{tmp_path}/s"
    store = open_store(root if protocol == "file" else f"memory://{root}")
    for number in range(MAX_PAGES + 3):
        store.record_decision("p", {"decision": "kept aside", "number": number}, b"<p>%d" % number)
    store.record_decision("p", {"decision": "kept aside", "number": -1})
    decisions, files = store.decisions("p"), fsspec.filesystem(protocol)
    assert [entry["number"] for entry in decisions] == [*range(MAX_PAGES + 3), -1]
    existing = [entry for entry in decisions if "page" in entry and files.exists(f"{root}/{entry['page']}")]
    assert len(existing) == MAX_PAGES
    for entry in existing:
        assert files.cat(f"{root}/{entry['page']}") == b"<p>%d" % entry["number"]
    assert "page" not in decisions[-1]
