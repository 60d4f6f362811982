"""Tests of the shell that runs the commands of documentation pages. It reports outputs that differ from the page."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.doc_blocks import Command
from support.doc_shell import Setups, run_page, shell


def problems(text: str, folder: Path) -> list[str]:
    failures, _ = run_page(text, folder / "page", Setups(folder / "setups"))
    return [failure.problem for failure in failures]


def block(*lines: str) -> str:
    return "\n".join(["```console", *lines, "```", ""])


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (("$ echo one; echo two", "one", "two"), []),
        (("$ echo one; echo two", "one"), ["the page lacks this line: two"]),
        (("$ echo one", "two"), ["not printed: two"]),
        (("$ false",), ["exit code 1"]),
        (("$ echo 'a: error: b' >&2; false", "a: error: b"), []),
        (("$ echo 'a: error: b'", "a: error: b"), ["exit code 0 of a command that the page shows with an error"]),
        (("$ cd /; export X=1", "$ echo $PWD $X", "/ 1"), []),
        (("$ cat", "$ echo after", "after"), []),
        (("$ for i in 1 2; do \\", "    echo $i; done", "1", "2"), []),
        (("$ no-such-server --port 8100 &",), ["the program does not listen"]),
        (("$ sleep 1000 &", "$ jobs -r | wc -l", "1"), []),
    ],
)
def test_a_command_has_to_do_what_the_page_shows(lines: tuple[str, ...], expected: list[str], tmp_path: Path) -> None:
    found = problems(block(*lines), tmp_path)
    assert len(found) == len(expected)
    for problem, words in zip(found, expected, strict=True):
        assert problem in (words, "the program has ended")


def test_the_exit_code_of_the_last_command_can_be_stated(tmp_path: Path) -> None:
    page = "<!-- exit code: 3 -->\n" + block("$ true", "$ (exit 3)")
    assert problems(page, tmp_path) == []
    assert problems(page.replace("3", "4", 1), tmp_path / "other") == ["exit code 3"]


def test_files_are_written_and_ports_are_replaced(tmp_path: Path) -> None:
    page = "<!-- file: a/b.txt -->\n```text\nlocalhost:8100\n```\n" + block(
        "$ cat a/b.txt",
        "localhost:8100",
        "$ python -c \"print(open('a/b.txt').read().strip() == 'localhost:' + '81' + '00')\"",
        "False",
    )
    assert problems(page, tmp_path) == []


def test_pages_with_the_same_set_up_share_it(tmp_path: Path) -> None:
    setups = Setups(tmp_path / "setups")
    count = tmp_path / "count"
    for number in range(3):
        page = f"<!-- setup\n$ echo x >> {count}; echo made > made\n-->\n" + block(
            "$ cat made", "made", "$ echo changed > made"
        )
        failures, counts = run_page(page, tmp_path / str(number), setups)
        assert (failures, counts["commands"]) == ([], 2)
    assert count.read_text() == "x\n"


def test_blocks_with_a_reason_are_not_run(tmp_path: Path) -> None:
    page = "<!-- not run: needs a cluster -->\n" + block(f"$ touch {tmp_path}/run")
    failures, counts = run_page(page, tmp_path / "page", Setups(tmp_path / "setups"))
    assert (failures, counts["not run"], counts["commands"]) == ([], 1, 0)
    assert not (tmp_path / "run").exists()


def test_the_environment_of_the_tests_does_not_reach_the_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_PATH", "/elsewhere")
    tmp_path.mkdir(exist_ok=True)
    with shell(tmp_path) as session:
        assert session.run(Command(1, "echo [$MODEL_PATH]", ("[]",), 0)) is None
