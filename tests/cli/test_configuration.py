"""Tests of `Configuration`: settings from options, the environment, the configuration folder and MODEL_CONFIG."""

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
    path = tmp_path / "kepler.config"
    path.mkdir()
    return path


def configuration(folder: Path, **environ: str) -> Configuration:
    return Configuration(str(folder), environ)


def test_the_order_of_the_sources(folder: Path) -> None:
    assert configuration(folder).text(KEY) is None
    (folder / "MODEL_CONFIG").write_text(f"A=1\n{KEY}=4\n")
    assert configuration(folder).text(KEY) == "4"
    (folder / KEY).write_text("3\n")
    assert configuration(folder).text(KEY) == "3"
    assert configuration(folder, **{KEY: "2"}).text(KEY) == "2"
    assert configuration(folder, **{KEY: "2"}).text(KEY, "1") == "1"


def test_model_config_of_the_environment_precedes_that_of_the_folder(folder: Path) -> None:
    (folder / "MODEL_CONFIG").write_text(f"{KEY}=4\n")
    assert configuration(folder, MODEL_CONFIG=f"{KEY}=5").text(KEY) == "5"


def test_the_location_of_the_folder(folder: Path) -> None:
    (folder / KEY).write_text("3")
    assert Configuration(None, {"CONFIG_PATH": str(folder)}).text(KEY) == "3"
    assert Configuration(None, {}).folder == Path(DEFAULT_FOLDER)
    assert Configuration("/other", {"CONFIG_PATH": str(folder)}).folder == Path("/other")


def test_without_a_folder_there_are_no_settings(tmp_path: Path) -> None:
    assert configuration(tmp_path / "absent").text(KEY) is None
    (tmp_path / "file").write_text("x")
    assert configuration(tmp_path / "file").text(KEY) is None


def test_reading_creates_no_files(tmp_path: Path) -> None:
    configuration(tmp_path / "absent").text(KEY)
    assert list(tmp_path.iterdir()) == []


def test_a_mounted_config_map(folder: Path) -> None:
    """A setting is read from a config map that Kubernetes has mounted.

    In the folder of a mounted config map, each key is a link to a file in the folder `..data`. `..data` is a link, too.
    """
    (folder / "..2026").mkdir()
    (folder / "..2026" / KEY).write_text("8100")
    (folder / "..data").symlink_to("..2026")
    (folder / KEY).symlink_to(f"..data/{KEY}")
    assert configuration(folder).number(KEY) == 8100


def test_model_config_lines(folder: Path) -> None:
    # Like Kepler, `Configuration` splits MODEL_CONFIG at blanks, not only at line ends.
    lines = "# a comment\n\n  A=1 B=x=y\nno equals sign\n#C=3\nD=\r\nE=5\r\n"
    settings = configuration(folder, MODEL_CONFIG=lines)
    assert [settings.text(key) for key in "ABCDE"] == ["1", "x=y", None, None, "5"]


def test_blanks_and_quotes_in_model_config_lines(folder: Path) -> None:
    lines = """
        A = 1
        B="x y"  C = 'z'   # D=4
        E= F = http://host/?a=b#c
        G="unclosed
        H = "# no comment" I= # a comment
    """
    settings = configuration(folder, MODEL_CONFIG=lines)
    expected = ["1", "x y", "z", None, None, "http://host/?a=b#c", '"unclosed', "# no comment", None]
    assert [settings.text(key) for key in "ABCDEFGHI"] == expected


def test_quoted_true_in_a_model_config_line_is_true(folder: Path) -> None:
    assert configuration(folder, MODEL_CONFIG='A = "true"').flag("A") is True


def test_the_address_of_a_kubernetes_service_is_no_port(folder: Path) -> None:
    """An address in MODEL_SERVER_PORT is ignored. Kubernetes sets it if there is a Service named model-server."""
    (folder / KEY).write_text("8105")
    assert configuration(folder, **{KEY: "tcp://10.0.0.1:8100"}).number(KEY) == 8105
    assert configuration(folder, SCHEDULER="tcp://10.0.0.1:8786").text("SCHEDULER") == "tcp://10.0.0.1:8786"


def test_the_volume(tmp_path: Path) -> None:
    assert Configuration("/none", {}).volume() == Path("/mnt")
    assert Configuration("/none", {"MNT_PATH": str(tmp_path)}).volume() == tmp_path


def test_blanks_are_stripped_and_empty_is_unset(folder: Path) -> None:
    assert configuration(folder, A="  x \n").text("A") == "x"
    assert configuration(folder, A=" \n").text("A") is None
    (folder / "A").write_text("")
    assert configuration(folder).text("A") is None


@pytest.mark.parametrize(
    ("text", "expected"), [("true", True), ("True", True), ("TRUE\n", True), ("false", False), ("1", False)]
)
def test_flags(folder: Path, text: str, expected: bool) -> None:
    assert configuration(folder, A=text).flag("A") is expected
    assert configuration(folder, A=text).flag("A", True) is True
    assert configuration(folder).flag("A") is None


def test_numbers(folder: Path) -> None:
    assert configuration(folder, A="2.5").number("A") == 2.5
    assert configuration(folder, A="2.5").number("A", 3) == 3
    assert configuration(folder).number("A") is None
    with pytest.raises(UsageError, match="A: 'x' is not a number"):
        configuration(folder, A="x").number("A")


@pytest.mark.parametrize("text", ["nan", "inf", "-inf"])
def test_numbers_must_be_finite(folder: Path, text: str) -> None:
    with pytest.raises(UsageError):
        configuration(folder, A=text).number("A")


def test_a_file_that_cannot_be_read(folder: Path) -> None:
    (folder / "A").mkdir()
    with pytest.raises(UsageError, match="A"):
        configuration(folder).text("A")
    (folder / "B").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="B"):
        configuration(folder).text("B")


def test_the_environment_of_the_process(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("KEPLER_TEST_KEY", "x")
    assert Configuration(str(folder)).text("KEPLER_TEST_KEY") == os.environ["KEPLER_TEST_KEY"]


@given(st.text("AB=# x\r\n\0\u2028") | st.text())
def test_arbitrary_lines(lines: str) -> None:
    text = Configuration("/no-such-folder", {"MODEL_CONFIG": lines}).text("A")
    assert text is None or text == text.strip() != ""
