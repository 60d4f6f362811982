"""Settings: command line, environment, folder, MODEL_CONFIG, default."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kepler_core.configuration import DEFAULT_FOLDER, Configuration
from kepler_core.errors import UsageError

KEY = "MODEL_SERVER_PORT"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "kepler.config"
    found.mkdir()
    return found


def made(folder: Path, **environ: str) -> Configuration:
    return Configuration(str(folder), environ)


def test_the_order(folder: Path) -> None:
    assert made(folder).text(KEY) is None
    (folder / "MODEL_CONFIG").write_text(f"A=1\n{KEY}=4\n")
    assert made(folder).text(KEY) == "4"
    (folder / KEY).write_text("3\n")
    assert made(folder).text(KEY) == "3"
    assert made(folder, **{KEY: "2"}).text(KEY) == "2"
    assert made(folder, **{KEY: "2"}).text(KEY, "1") == "1"


def test_model_config_of_the_environment_goes_before_that_of_the_folder(folder: Path) -> None:
    (folder / "MODEL_CONFIG").write_text(f"{KEY}=4\n")
    assert made(folder, MODEL_CONFIG=f"{KEY}=5").text(KEY) == "5"


def test_where_the_folder_is(folder: Path) -> None:
    (folder / KEY).write_text("3")
    assert Configuration(None, {"CONFIG_PATH": str(folder)}).text(KEY) == "3"
    assert Configuration(None, {}).folder == Path(DEFAULT_FOLDER)
    assert Configuration("/other", {"CONFIG_PATH": str(folder)}).folder == Path("/other")


def test_no_folder_is_no_setting(tmp_path: Path) -> None:
    assert made(tmp_path / "absent").text(KEY) is None
    (tmp_path / "file").write_text("x")
    assert made(tmp_path / "file").text(KEY) is None


def test_nothing_is_made_on_disk(tmp_path: Path) -> None:
    made(tmp_path / "absent").text(KEY)
    assert list(tmp_path.iterdir()) == []


def test_a_mounted_config_map(folder: Path) -> None:
    """Kubernetes mounts each key as a link to a link."""
    (folder / "..2026").mkdir()
    (folder / "..2026" / KEY).write_text("8100")
    (folder / "..data").symlink_to("..2026")
    (folder / KEY).symlink_to(f"..data/{KEY}")
    assert made(folder).number(KEY) == 8100


def test_model_config_lines(folder: Path) -> None:
    # Kepler separates them at any blank
    lines = "# a comment\n\n  A=1 B=x=y\nno equals sign\n#C=3\nD=\r\nE=5\r\n"
    found = made(folder, MODEL_CONFIG=lines)
    assert [found.text(key) for key in "ABCDE"] == ["1", "x=y", None, None, "5"]


def test_blanks_and_empty(folder: Path) -> None:
    assert made(folder, A="  x \n").text("A") == "x"
    assert made(folder, A=" \n").text("A") is None
    (folder / "A").write_text("")
    assert made(folder).text("A") is None


@pytest.mark.parametrize(
    ("text", "expected"), [("true", True), ("True", True), ("TRUE\n", True), ("false", False), ("1", False)]
)
def test_flags(folder: Path, text: str, expected: bool) -> None:
    assert made(folder, A=text).flag("A") is expected
    assert made(folder, A=text).flag("A", True) is True
    assert made(folder).flag("A") is None


def test_numbers(folder: Path) -> None:
    assert made(folder, A="2.5").number("A") == 2.5
    assert made(folder, A="2.5").number("A", 3) == 3
    assert made(folder).number("A") is None
    with pytest.raises(UsageError, match="A: 'x' is not a number"):
        made(folder, A="x").number("A")


@pytest.mark.parametrize("text", ["nan", "inf", "-inf"])
def test_numbers_that_are_none(folder: Path, text: str) -> None:
    with pytest.raises(UsageError):
        made(folder, A=text).number("A")


def test_a_file_that_cannot_be_read(folder: Path) -> None:
    (folder / "A").mkdir()
    with pytest.raises(UsageError, match="A"):
        made(folder).text("A")
    (folder / "B").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="B"):
        made(folder).text("B")


def test_the_real_environment(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("KEPLER_TEST_KEY", "x")
    assert Configuration(str(folder)).text("KEPLER_TEST_KEY") == os.environ["KEPLER_TEST_KEY"]


@given(st.text("AB=# x\r\n\0\u2028") | st.text())
def test_any_lines(lines: str) -> None:
    found = Configuration("/no-such-folder", {"MODEL_CONFIG": lines}).text("A")
    assert found is None or found == found.strip() != ""
