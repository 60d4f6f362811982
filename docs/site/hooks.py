"""Hooks of MkDocs: add the pages of the repository's root to the website, and check links to other servers.

MkDocs only knows pages below `docs_dir`. CHANGELOG.md, CONTRIBUTING.md and SECURITY.md lie above it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "SECURITY.md": "security.md"}
"""Maps the names of pages in the repository's root to their names in the website."""

_LINK = re.compile(r"\]\((?!https?:|mailto:|#)(?P<target>[^)#\s]+)")
_HIDDEN = re.compile(r"(?m)^ *<!--.*?-->[ \t]*\n", re.DOTALL)
"""HTML comments with instructions for the tests of the documentation. In the website, they would split lists."""
_LOADED = re.compile(r"""<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)=["']?(?P<url>(?:https?:)?//[^"'\s>]+)""")
_NOT_LOADED = re.compile(r"""<link\b[^>]*\brel=["']?(?:canonical|prev|next|edit)""")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the root to the website. Their links are changed to links from the folder `docs`."""
    for source, name in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=_LINK.sub(_from_docs, text)))
    return files


def _from_docs(match: re.Match[str]) -> str:
    target = match["target"]
    return f"]({PAGES.get(target, target.removeprefix('docs/'))}"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Remove the comments for the tests, and change links to the root's pages into links to pages of the website."""
    for source, name in PAGES.items():
        markdown = markdown.replace(f"](../{source}", f"]({name}")
    return _HIDDEN.sub("", markdown)


def on_post_build(config: Any) -> None:
    """Raise `PluginError` if a page of the website loads anything from another server."""
    found = {
        match["url"]
        for page in Path(config["site_dir"]).rglob("*.html")
        for match in _LOADED.finditer(page.read_text(encoding="utf-8"))
        if _NOT_LOADED.match(match[0]) is None
    }
    if found:
        raise PluginError(f"the website loads from other servers: {', '.join(sorted(found))}")
