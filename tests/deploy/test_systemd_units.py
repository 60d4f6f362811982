"""Tests of the systemd units: systemd accepts the units, the units restrict their servers, and their commands exist."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support.command import kepler
from support.paths import ROOT

from kepler_servers.commands import SERVERS

FOLDER = ROOT / "deploy" / "systemd"
UNITS = sorted(path.name for path in FOLDER.glob("*.service"))
MAX_EXPOSURE = {"kepler-meter.service": 2.7}
"""Highest exposure that `systemd-analyze security` may report. The meter runs as root, to read RAPL counters."""
DEFAULT_MAX_EXPOSURE = 1.8
PROGRAM = "/opt/kepler-core/bin/kepler-model"


@pytest.fixture
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a copy of a unit file that starts /bin/true, because the real program may not exist on this machine."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    copy = tmp_path / str(request.param)
    copy.write_text((FOLDER / copy.name).read_text().replace(PROGRAM, "/bin/true"))
    return copy


def analyze(*arguments: str | Path) -> str:
    done = subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


def test_each_server_has_a_unit() -> None:
    assert sorted(f"kepler-{name}.service" for name in SERVERS) == UNITS


@pytest.mark.parametrize("unit", UNITS, indirect=True)
def test_systemd_accepts_the_unit(unit: Path) -> None:
    assert analyze("verify", "--man=no", unit) == ""


@pytest.mark.parametrize("unit", UNITS, indirect=True)
def test_the_unit_is_hardened(unit: Path) -> None:
    text = analyze("security", "--offline=true", "--no-pager", unit)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", text)
    assert found is not None, text
    assert float(found[1]) <= MAX_EXPOSURE.get(unit.name, DEFAULT_MAX_EXPOSURE), text


@pytest.mark.parametrize("name", UNITS)
def test_the_unit_starts_its_server(name: str) -> None:
    (command,) = re.findall(r"^ExecStart=(.*)$", (FOLDER / name).read_text(), re.MULTILINE)
    program, *words = command.split()
    assert (program, words[:2]) == (PROGRAM, ["serve", name.removeprefix("kepler-").removesuffix(".service")])
    assert kepler(*words, "--help").returncode == 0


def test_the_user_of_the_units_is_created(tmp_path: Path) -> None:
    users = {match for name in UNITS for match in re.findall(r"^User=(.*)$", (FOLDER / name).read_text(), re.MULTILINE)}
    assert users == {"kepler-core"}
    if shutil.which("systemd-sysusers") is None:
        pytest.skip("systemd is not installed")
    (tmp_path / "etc").mkdir()
    command = ["systemd-sysusers", f"--root={tmp_path}", FOLDER / "kepler-core.conf"]
    subprocess.run(command, check=True, capture_output=True)
    line = (tmp_path / "etc" / "passwd").read_text().strip()
    assert line.startswith("kepler-core:x:"), line
    assert line.endswith(":Kepler Core:/var/lib/kepler-core:/usr/sbin/nologin"), line
