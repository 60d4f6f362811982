"""Tests of the files in `deploy/`: systemd unit, compose, kustomize and the Helm post-renderer."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.paths import ROOT

DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "systemd" / "kepler-meter.service"


def test_after_a_kill_the_unit_withdraws_all_values(tmp_path: Path) -> None:
    zone, sensor = tmp_path / "sysfs" / "class" / "powercap" / "a:b@1:package", tmp_path / "sysfs" / "hwmon0"
    for folder in (zone, sensor):
        folder.mkdir(parents=True)
    for file in (zone / "energy_uj", zone / "name", sensor / "power12_input", sensor / "power12_label"):
        file.write_text("7\n")
    (tmp_path / "watts").write_text("7\n")
    (tmp_path / "sysfs" / "status.json").write_text("{}")
    commands = [line.partition("=-")[2] for line in UNIT.read_text().splitlines() if line.startswith("ExecStopPost=")]
    for command in commands:
        words = [word.replace("%t/kepler-core", str(tmp_path)) for word in command.split()]
        subprocess.run([";" if word == "\\;" else word for word in words], check=True)
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"last_energy_uj", "name", "power12_label"}


def documents() -> list[Any]:
    return [
        {"kind": "Service", "metadata": {"name": "kepler"}},
        {
            "kind": "DaemonSet",
            "spec": {
                "template": {
                    "spec": {
                        "containers": [{"volumeMounts": [{"name": "sysfs", "mountPath": "/host/sys"}]}],
                        "volumes": [
                            {"name": "procfs", "hostPath": {"path": "/proc"}},
                            {"name": "sysfs", "hostPath": {"path": "/sys"}},
                        ],
                    }
                }
            },
        },
    ]


@pytest.mark.parametrize("sorted_keys", [False, True])
def test_the_post_renderer_changes_one_path(sorted_keys: bool) -> None:
    """The post-renderer changes the path of the volume `sysfs` only.

    Helm may write keys in the order of the chart, or sorted. The post-renderer must work with both.
    """
    text = yaml.safe_dump_all(documents(), sort_keys=sorted_keys)
    done = subprocess.run([DEPLOY / "helm" / "post-render.sh"], input=text, capture_output=True, text=True, check=True)
    expected = documents()
    expected[1]["spec"]["template"]["spec"]["volumes"][1]["hostPath"] = {"path": "/run/kepler-core/sysfs"}
    assert list(yaml.safe_load_all(done.stdout)) == expected


def test_the_post_renderer_fails_without_the_volume() -> None:
    text = yaml.safe_dump_all(documents()[:1])
    done = subprocess.run([DEPLOY / "helm" / "post-render.sh"], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "post-render.sh: found no volume sysfs with the host path /sys\n"


def test_kepler_reads_the_tree_of_the_meter_in_the_compose_file() -> None:
    services = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())["services"]
    assert "tree:/host/sys:ro" in services["kepler"]["volumes"]
    assert "--host.sysfs=/host/sys" in services["kepler"]["command"]


@pytest.mark.parametrize("file", ["compose/compose.yaml", "systemd/kepler-meter.service"])
def test_all_options_of_the_examples_exist(file: str) -> None:
    from kepler_servers.commands.meter import meter

    known = {option for parameter in meter.params for option in parameter.opts}
    words = (DEPLOY / file).read_text().replace("=", " ").split()
    used = {word for word in words if word.startswith("--")} - {"--host.procfs", "--host.sysfs"}
    assert {word for word in used if word in known} == used - {"--now"}
