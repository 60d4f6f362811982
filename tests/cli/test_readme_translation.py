"""Test that the Chinese README has the same structure as the English one: headings, blocks, tables and links."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from support.doc_blocks import read_blocks
from support.paths import ROOT

ENGLISH = (ROOT / "README.md").read_text(encoding="utf-8")
CHINESE = (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")

HEADINGS = {
    "Kepler Core": "Kepler Core",
    "What it does": "功能",
    "Install": "安装",
    "First steps": "第一步",
    "Serve": "服务",
    "Documentation": "文档",
}
"""Chinese translations of the headings in README.md. The keys are the English headings."""


def prose(text: str) -> str:
    """Return a page without its code blocks."""
    return re.sub(r"(?ms)^```.*?^```$", "", text)


def headings(text: str) -> list[tuple[int, str]]:
    return [(len(marks), title) for marks, title in re.findall(r"(?m)^(#+) (.+)$", prose(text))]


def table_rows(text: str) -> list[int]:
    """Return the number of cells of each row, for all tables in the page."""
    return [line.count("|") for line in prose(text).splitlines() if line.startswith("|")]


def links(text: str) -> Counter[str]:
    """For each target of a link, return the number of links to this target. Links within the page are left out."""
    return Counter(re.findall(r"\]\(([^)#][^)]*)\)", prose(text)))


def code_words(text: str) -> Counter[str]:
    return Counter(re.findall(r"`([^`\n]+)`", prose(text)))


def test_the_headings_are_translated_one_by_one() -> None:
    assert [(level, HEADINGS.get(title)) for level, title in headings(ENGLISH)] == headings(CHINESE)


def test_the_blocks_are_the_same() -> None:
    english, chinese = ([(b.language, b.text, b.file, b.reason) for b in read_blocks(t)] for t in (ENGLISH, CHINESE))
    assert chinese == english
    assert len(english) > 10


@pytest.mark.parametrize("part", [table_rows, code_words], ids=["tables", "names in code"])
def test_tables_and_names_are_the_same(part) -> None:
    assert part(CHINESE) == part(ENGLISH)


def test_the_links_are_the_same_but_those_to_the_other_language() -> None:
    assert links(CHINESE) - links(ENGLISH) == Counter({"README.md": 1})
    assert links(ENGLISH) - links(CHINESE) == Counter({"README.zh-CN.md": 1})


def test_links_within_a_page_lead_to_a_heading() -> None:
    for text in (ENGLISH, CHINESE):
        anchors = {title.lower().replace(" ", "-") for _, title in headings(text)}
        assert set(re.findall(r"\]\(#([^)]+)\)", prose(text))) <= anchors


def test_files_that_the_pages_link_to_exist() -> None:
    for target in links(ENGLISH) + links(CHINESE):
        if not target.startswith("http"):
            assert (ROOT / target.partition("#")[0]).is_file(), target
