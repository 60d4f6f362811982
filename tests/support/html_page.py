"""Checks that an HTML page is well formed and needs no other file."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {"meta", "input", "br", "path", "use", "rect"}


class Elements(HTMLParser):
    """Collects the elements of a page and their attributes, and fails if an element is not closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def check_self_contained(page: str) -> None:
    """Check that all elements are closed, that ids are unique, and that nothing refers to another file."""
    elements = Elements(page)
    assert elements.open == []
    for tag, attributes in elements.attributes:
        assert tag not in ("link", "img", "iframe")
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#"), (tag, attributes)
    assert not re.search(r"url\((?!#)|@import", page)
    ids = [attributes["id"] for _, attributes in elements.attributes if "id" in attributes]
    assert len(ids) == len(set(ids))
