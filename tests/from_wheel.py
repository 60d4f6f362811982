"""Check that the installed wheel is complete. tox runs this script outside of the source checkout."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

store = Path(sys.argv[1])
shutil.rmtree(store, ignore_errors=True)
site = Path(sysconfig.get_paths()["purelib"])
for package in ("kepler_core", "kepler_plugins", "kepler_config", "kepler_profiler", "kepler_servers"):
    spec = importlib.util.find_spec(package)
    assert spec is not None, f"{package} is not in the wheel"
    assert spec.origin is not None, package
    assert Path(spec.origin).is_relative_to(site), f"{package} comes from {spec.origin}, not from the wheel"


def run(*arguments: str) -> str:
    command = [str(Path(sys.executable).with_name("kepler-model")), *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


names = [pipeline["name"] for pipeline in json.loads(run("pipelines", "list", "--json"))]
assert {"default", "quickstart"} <= set(names), names
report = json.loads(run("quickstart", "--store", str(store), "--json"))
assert report["models"], "no model trained"
assert not report["failed"], report["failed"]
assert run("plugins", "doctor").strip().endswith("nothing is wrong")
print(f"the wheel works: {len(report['models'])} models in {report['seconds']['total']} s")
