"""Tests of `kepler-model watts` on synthetic machines and on the machine that runs the tests."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
from support.command import kepler
from support.linear_models import LinearModel, publish
from support.paths import ROOT
from support.synthetic_machine import SyntheticMachine

HOST = {"processor": "intel_xeon_platinum_8259cl", "cores": 96, "chips": 2, "memory": 16}


class Live:
    """A synthetic machine whose counters move in real time while a command runs."""

    def __init__(self, machine, *, load=0.0, watts=None):
        self.machine, self.load, self.watts = machine, load, watts
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        energy = self.machine.root / "sys/class/powercap/intel-rapl:0/energy_uj"
        begin, before = time.monotonic(), time.monotonic()
        while not self.stopped.wait(0.02):
            now = time.monotonic()
            self.machine.run(now - before, load=self.load)
            before = now
            if self.watts is not None:
                # One write replaces the content, so that a reader never sees an empty file.
                with open(energy, "r+b") as file:
                    file.write(b"%020d" % round(1e6 * (1 + self.watts * (now - begin))))

    def __enter__(self):
        self.thread.start()
        return self.machine

    def __exit__(self, *_):
        self.stopped.set()
        self.thread.join()


def document(*arguments):
    done = kepler("watts", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_any_machine_without_configuration():
    done = kepler("watts")
    assert done.returncode == 0, done.stderr
    assert re.match(r"(This|The) [a-z ]+ draws? [0-9.]+ W \(90 % interval: [0-9.]+ to [0-9.]+ W\)", done.stdout)
    assert "\nsource " in done.stdout
    assert "\nmachine " in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_server_with_a_readable_meter(tmp_path):
    machine = SyntheticMachine(tmp_path, cpus=8)
    for name, text in (("name", "package-0"), ("max_energy_range_uj", 262_143_328_850), ("energy_uj", f"{1:020}")):
        machine.file(f"sys/class/powercap/intel-rapl:0/{name}", text)
    with Live(machine, load=0.5, watts=65.0):
        report = document("--root", str(tmp_path))
        text = kepler("watts", "--root", str(tmp_path)).stdout
    assert report["watts"] == pytest.approx(65.0, rel=0.15)
    assert report["component"] == "package"
    assert report["source"]["kind"] == "measured"
    assert report["whole_machine"]["watts"] > 10
    assert report["better"] == []
    assert "The processors of this machine draw" in text
    assert "at the plug" in text


def test_server_without_a_meter(tmp_path):
    machine = SyntheticMachine(tmp_path, cpus=96, sockets=2)
    with Live(machine):
        report = document("--root", str(tmp_path))
        known = document("--root", str(tmp_path), "--idle-watts", "70")
    assert report["source"]["kind"] == "formula"
    assert report["lower"] < report["watts"] < report["upper"]
    assert report["machine"]["virtual"] is None
    assert any("--idle-watts" in sentence for sentence in report["better"])
    assert known["idle"]["watts"] == pytest.approx(70)
    assert (known["upper"] - known["lower"]) < (report["upper"] - report["lower"])


def test_virtual_machine_names_its_share(tmp_path):
    machine = SyntheticMachine(tmp_path, cpus=4, virtual=True)
    with Live(machine, load=0.5):
        text = kepler("watts", "--root", str(tmp_path)).stdout
        report = document("--root", str(tmp_path))
    assert text.startswith("This virtual machine draws")
    assert "4.2 % of the host's CPUs" in text
    assert report["machine"]["share_of_host"]["highest"] == pytest.approx(4 / 96)
    assert report["idle_share"] == "reservation"


def test_model_of_a_store(tmp_path):
    model = LinearModel(
        group="CPUTime", features=("bpf_cpu_time_ms",), watts={"package": (40.0, {"bpf_cpu_time_ms": 0.0})}
    )
    publish(tmp_path / "store", model, machine=HOST)
    machine = SyntheticMachine(tmp_path / "root", cpus=96, sockets=2)
    with Live(machine):
        report = document("--root", str(machine.root), "-s", str(tmp_path / "store"))
    assert report["source"]["kind"] == "model"
    assert report["watts"] == pytest.approx(40.0)


def test_watch_prints_lines_until_interrupted():
    process = subprocess.Popen(
        [sys.executable, "-m", "kepler_core", "watts", "--watch", "--interval", "0.1", "--json"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    reports = [json.loads(process.stdout.readline()) for _ in range(3)]
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    process.stdout.close()
    assert [report["time"] for report in reports] == sorted(report["time"] for report in reports)


def test_reasons_are_in_the_report_and_not_in_a_log(tmp_path):
    publish(tmp_path, LinearModel(), machine=HOST)
    done = subprocess.run(
        [sys.executable, "-m", "kepler_core", "watts", "-s", str(tmp_path)], capture_output=True, text=True, cwd=ROOT
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "vm-kepler" not in done.stdout
    assert "Measured." in done.stdout or "  - model: " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--source", "formul"], 2, "did you mean formula"),
        (["--idle-watts", "fan=3"], 2, "unknown component"),
        (["--instance", "mm9.large"], 2, "not in the table"),
        (["--model-server", "ftp://x"], 2, "http://host:port"),
        (["--root", "/no-such-folder"], 1, "--machine-spec"),
    ],
)
def test_errors_have_one_line_and_a_code(arguments, code, words):
    done = kepler("watts", *arguments)
    assert done.returncode == code
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_estimates_do_not_import_what_training_needs(tmp_path):
    code = (
        "import sys; sys.argv = ['kepler-model', 'watts', '--json']\n"
        "from kepler_core.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as error: assert not error.code, error.code\n"
        "heavy = {'pandas', 'sklearn', 'scipy', 'matplotlib', 'onnxruntime'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, cwd=tmp_path)


def test_readme_begins_with_the_watts_of_this_machine():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"(?ms)^```console\n\$ kepler-model watts\n(.*?)^```$", readme)
    assert block is not None
    assert readme[: block.start()].count("\n") < 25
    done = kepler("watts")
    shown = {line.split()[0] for line in block[1].splitlines() if re.match(r"[a-z ]", line) and line.split()}
    printed = {line.split()[0] for line in done.stdout.splitlines() if line.split()}
    assert {"idle", "now", "full", "source", "machine"} <= shown
    measured = "Measured." in done.stdout
    assert measured or {"idle", "now", "full", "source", "machine"} <= printed
