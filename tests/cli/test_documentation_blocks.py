"""Check the code blocks of documentation pages without running them, and test the comparison of outputs."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from support.doc_blocks import (
    LANGUAGES,
    bare_commands,
    page_name,
    pages,
    read_blocks,
    read_commands,
    setup_commands,
)
from support.doc_output import first_difference, line_matches

PAGES = [pytest.param(path, id=page_name(path)) for path in pages()]


def parses(language: str, text: str) -> bool:
    """Return whether a block is valid in its language. A block of JSON may be shortened with `…`."""
    try:
        if language == "json" and "…" not in text:
            for line in text.splitlines() if text.count("\n{") else [text]:
                json.loads(line)
        elif language == "yaml":
            yaml.safe_load(text)
        elif language == "toml":
            tomllib.loads(text)
        elif language == "xml":
            ElementTree.fromstring(f"<page>{text}</page>")
        elif language == "python":
            compile(text, "block", "exec")
    except (ValueError, SyntaxError, yaml.YAMLError, ElementTree.ParseError):
        return False
    return True


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_a_page_has_a_language_and_is_valid_in_it(page: Path) -> None:
    blocks = read_blocks(page.read_text(encoding="utf-8"))
    assert [f"line {block.line}: {block.language!r}" for block in blocks if block.language not in LANGUAGES] == []
    assert [f"line {block.line}" for block in blocks if not parses(block.language, block.text)] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_is_in_a_console_block(page: Path) -> None:
    blocks = read_blocks(page.read_text(encoding="utf-8"))
    assert [f"line {block.line}" for block in blocks if bare_commands(block)] == []
    for block in blocks:
        assert block.commands or block.language != "console" or block.reason or block.file, f"line {block.line}"


def test_the_fences_of_a_page_are_pairs() -> None:
    for page in pages():
        text = page.read_text(encoding="utf-8")
        assert 2 * len(read_blocks(text)) == sum(line.lstrip().startswith("```") for line in text.splitlines()), page


PAGE = """
Text.

<!-- setup
$ prepare
-->

<!-- file: request.json -->
```json
{}
```

<!-- not run: needs a cluster -->
```console
$ kubectl apply
```

1. Step

   <!-- exit code: 3 -->
   ```console
   $ first
   a: error: wrong
   $ second \\
       --option
   shown

   also shown
   $ third &
   ```
"""


def test_blocks_have_the_properties_that_their_comments_state() -> None:
    file, not_run, run = read_blocks(PAGE)
    assert (file.file, file.text, file.commands) == ("request.json", "{}\n", [])
    assert (not_run.reason, not_run.commands) == ("needs a cluster", [])
    first, second, third = run.commands
    assert (first.text, first.shown, first.exit_code) == ("first", ("a: error: wrong",), -1)
    assert (second.text, second.shown) == ("second \\\n    --option", ("shown", "also shown"))
    assert (third.background, third.exit_code, second.exit_code) == (True, 3, 0)
    assert PAGE.splitlines()[second.line - 1].strip() == "$ second \\"
    assert [command.text for command in setup_commands(PAGE)] == ["prepare"]


def test_output_before_a_command_is_an_error() -> None:
    with pytest.raises(ValueError, match="line 4: a console block begins with a command"):
        read_commands("kepler-model watts\n", 4)


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("MAE  4.49 W", "MAE 4.51   W", True),
        ("MAE 4.49 W", "MAE 9.49 W", False),
        ("24 models", "25 models", False),
        ("24 models in … s", "24 models in 3.1 s", True),
        ("24 models in …", "23 models in 3.1 s", False),
        ('{"weight":132.1244,…}', '{"weight":132.1245,"a":1}', True),
        ("version 0.1.0", "version 0.1.0", True),
        ("version 0.1.0", "version 0.1.1", False),
        ("… | …", "a | b", True),
        ("a.b", "axb", False),
    ],
)
def test_lines_match_if_they_have_the_same_words_and_nearly_the_same_numbers(
    shown: str, printed: str, same: bool
) -> None:
    assert line_matches(shown, printed) is same


@pytest.mark.parametrize(
    ("shown", "printed", "problem"),
    [
        ("a\nb", "a\n\nb\n", None),
        ("a\n…", "a\nb\nc", None),
        ("a\n…\nc", "a\nb\nc", None),
        ("a\n…\nc\n…", "a\nb\nc\nb\nc", None),
        ("a\nc", "a\nb\nc", "not printed: c"),
        ("a", "a\nb", "the page lacks this line: b"),
        ("a\n…\nd", "a\nb\nc", "not printed: d"),
        ("x  y\n--  --\n1  2", "x    y\n---  --\n1    2", None),
        ('{"a": 1,\n "b": …}', '{"a":1,"b":[2]}', None),
    ],
)
def test_outputs_are_compared_line_by_line(shown: str, printed: str, problem: str | None) -> None:
    assert first_difference(shown.splitlines(), printed.splitlines()) == problem


@given(st.text(st.characters(exclude_characters="…", exclude_categories=["C"]), min_size=1))
def test_a_line_matches_itself(line: str) -> None:
    assert line_matches(line, line)


@given(st.text())
def test_any_text_can_be_read_as_a_page(text: str) -> None:
    assert all(block.line > 0 for block in read_blocks(text))
