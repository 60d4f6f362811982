"""Test the rules for Prometheus and the dashboards for Grafana."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.command import kepler
from support.paths import ROOT
from support.prometheus_process import need_prometheus

PLACEHOLDERS = {"$instance": ".*", "$component": ".*"}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run `kepler-model monitoring`, and return the folder of the written files."""
    folder = tmp_path_factory.mktemp("monitoring") / "new" / "folder"
    done = kepler("monitoring", folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(folder / name) for name in ("rules.yaml", "power.json", "models.json")]
    return folder


def promtool(*arguments: str | Path, cwd: Path) -> str:
    """Run promtool and return its output."""
    need_prometheus()
    done = subprocess.run(["promtool", *map(str, arguments)], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def expressions(folder: Path) -> list[str]:
    """Return all expressions of the dashboards, with values in place of the variables."""
    found = []
    for name in ("power.json", "models.json"):
        for panel in json.loads((folder / name).read_text())["panels"]:
            for target in panel.get("targets", []):
                expression = target["expr"]
                for placeholder, value in PLACEHOLDERS.items():
                    expression = expression.replace(placeholder, value)
                found.append(expression)
    return found


def test_existing_files_are_kept(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text("mine")
    done = kepler("monitoring", tmp_path)
    assert done.returncode == 2
    assert "rules.yaml exist already; --force replaces them" in done.stderr
    assert (tmp_path / "rules.yaml").read_text() == "mine"
    assert kepler("monitoring", tmp_path, "--force").returncode == 0
    assert (tmp_path / "rules.yaml").read_text() != "mine"


def test_promtool_accepts_the_rules(written: Path) -> None:
    assert "SUCCESS" in promtool("check", "rules", "rules.yaml", cwd=written)


def test_the_alerts_fire_when_they_should(written: Path) -> None:
    (written / "test.yaml").write_bytes((ROOT / "tests" / "cli" / "monitoring_rules_test.yaml").read_bytes())
    assert "SUCCESS" in promtool("test", "rules", "test.yaml", cwd=written)


def test_promtool_accepts_every_expression_of_the_dashboards(written: Path, tmp_path: Path) -> None:
    rules = [{"record": f"panel:{number}", "expr": text} for number, text in enumerate(expressions(written))]
    assert len(rules) > 30
    (tmp_path / "panels.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", "panels.yaml", cwd=tmp_path)


def test_every_metric_is_one_that_the_servers_export(written: Path) -> None:
    rules: dict[str, Any] = yaml.safe_load((written / "rules.yaml").read_text())
    texts = expressions(written) + [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    recorded = {rule["record"] for group in rules["groups"] for rule in group["rules"] if "record" in rule}
    used = {name for text in texts for name in re.findall(r"\bkepler_[a-z_]+(?::[a-z_0-9]+)*", text)}
    source = "\n".join(path.read_text() for path in (ROOT / "servers").rglob("*.py"))
    prefix = re.compile(r"kepler_(?:meter|estimator|model_server|online_trainer|offline_trainer)_")
    for name in used - recorded:
        assert prefix.match(name), name
        short = re.sub(r"_(total|bucket)$", "", prefix.sub("", name, count=1))
        assert re.search(rf'["_}}]{short}"', source), f"no server has the metric {name}"


def test_every_alert_says_what_is_wrong_and_is_explained(written: Path) -> None:
    rules: dict[str, Any] = yaml.safe_load((written / "rules.yaml").read_text())
    page = (ROOT / "docs" / "monitoring.md").read_text()
    for group in rules["groups"]:
        for rule in group["rules"]:
            if "alert" in rule:
                assert rule["annotations"]["summary"]
                assert rule["labels"]["severity"] in ("critical", "warning", "info")
                assert f"`{rule['alert']}`" in page
