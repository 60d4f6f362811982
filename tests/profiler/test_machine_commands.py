"""Tests of `kepler-model machines`: estimates, the tables, and training from tables of machines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.command import kepler


def printed(*arguments: str | Path) -> str:
    done = kepler("machines", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def document(*arguments: str | Path) -> Any:
    return json.loads(printed(*arguments, "--json"))


XEON = ("--processor", "Xeon Gold 6230", "--chips", "2", "--memory", "192")


def test_a_machine_is_estimated_at_several_loads() -> None:
    text = printed("estimate", *XEON)
    assert "100 %" in text
    assert "80 threads, 40 cores, 2 chips, 125 W" in text
    assert "Class of the interval: server." in text


def test_a_described_machine_is_estimated(tmp_path: Path) -> None:
    file = tmp_path / "machine.json"
    file.write_text(
        json.dumps({"processor": "intel_xeon_gold_6230", "cores": 80, "chips": 2, "memory": 192, "threads_per_core": 2})
    )
    assert document("estimate", "--spec", file) == document("estimate", *XEON)


def test_a_known_idle_power_narrows_the_interval() -> None:
    unknown = document("estimate", *XEON, "--load", "0.5")["estimates"][0]
    known = document("estimate", *XEON, "--load", "0.5", "--idle-watts", "66")["estimates"][0]
    assert known["idle"] == 66
    assert known["upper"] / known["lower"] < 0.7 * unknown["upper"] / unknown["lower"] + 0.3


def test_a_cloud_instance_gets_its_share_of_the_host() -> None:
    answer = document("estimate", "--instance", "m5.2xlarge", "--load", "0.5")
    assert (answer["vcpus"], answer["host"]["threads"], answer["host"]["tdp_watts"]) == (8, 96, None)
    guest = answer["estimates"][0]
    assert guest["lower"] < guest["watts"] < guest["upper"]
    narrower = document("estimate", "--instance", "m5.2xlarge", "--load", "0.5", "--host-load", "0.5")["estimates"][0]
    assert narrower["upper"] - narrower["lower"] < guest["upper"] - guest["lower"]
    without = document("estimate", "--instance", "m5.2xlarge", "--load", "0", "--idle-share", "none")["estimates"][0]
    assert without["watts"] == 0
    assert "8 of the 96 threads" in printed("estimate", "--instance", "m5.2xlarge")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--processor", "Xeon Gold 6231"), "did you mean"),
        (("--processor", "Xeon\n" * 500), "not in the table of processors"),
        (("--instance", "a\n\x1b[2Jb.large"), "not in the table of instances"),
        (("--instance", "m55.large"), "not in the table of instances"),
        (("--instance", "n2-standard-8"), "does not publish the size of the hosts"),
        (("--instance", "m5.large", "--threads", "4"), "leave out"),
        (("--instance", "t3.micro"), "give --vcpus"),
        ((*XEON, "--load", "1.5"), "1.5 is not a load"),
        ((*XEON, "--load", "nan"), "nan is not a load"),
        ((*XEON, "--idle-watts", "0"), "is no idle power"),
        ((*XEON, "--host-load", "0.5"), "--host-load needs a guest"),
        ((*XEON, "--cores", "200"), "200 cores cannot have only 80 threads"),
        ((*XEON, "--tdp", "inf"), "inf is not between"),
        (("--cores", "4"), "give --threads"),
        (("--spec", "/no/such/file"), "No such file"),
    ],
)
def test_wrong_arguments_are_reported_in_one_line(arguments: tuple[str, ...], problem: str) -> None:
    done = kepler("machines", "estimate", *arguments)
    assert done.returncode == 2
    assert problem in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_contradiction_gives_no_estimate() -> None:
    done = kepler("machines", "estimate", *XEON, "--idle-watts", "5000")
    assert done.returncode == 1
    assert "no estimate: the stated idle power of 5000 W" in done.stderr


def test_processors_and_instances_are_listed_and_shown() -> None:
    assert "AMD EPYC 9654 " in printed("list", "zen4")
    assert "m7g" in printed("list", "--instances", "graviton3")
    assert len(document("list")) > 500
    shown = document("show", "Intel(R) Xeon(R) Platinum 8259CL CPU @ 2.50GHz")
    assert (shown["cores"], shown["tdp_watts"]) == (24, None)
    assert "not published" in shown["source"]
    assert "host threads:      64" in printed("show", "c7g.2xlarge")
    for arguments in (("show", "Xeon E5-2681 v4"), ("list", "no-such-processor")):
        assert kepler("machines", *arguments).returncode == 2
