"""Tests of `deploy/compose/laptop`: run the services as the compose file does, until the dashboards have values.

No container engine is needed: `support.compose_services` runs the services in namespaces. Grafana is not run; the tests
read its provisioning.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("sklearn")

import yaml
from support.compose_services import ComposeServices, need_namespaces
from support.paths import ROOT
from support.process import wait_for
from support.prometheus_process import need_prometheus

FOLDER = ROOT / "deploy" / "compose" / "laptop"
FILE = FOLDER / "compose.yaml"
MONITORING = ROOT / "config" / "kepler_config" / "monitoring"
OTHER_PROGRAMS = {"prometheus": "prometheus", "node-exporter": "prometheus-node-exporter"}
"""Programs of this machine that are run instead of images. The keys are names of images in the compose file."""
START_SECONDS = 400
TRAIN_SECONDS = 900
ROWS = "1000,50"
SCRAPE_SECONDS = 5.0
WITHOUT_VALUES = """
import json, sys, urllib.parse, urllib.request
for expression in sys.argv[1:]:
    query = urllib.parse.urlencode({"query": expression})
    with urllib.request.urlopen("http://prometheus:9090/api/v1/query?" + query) as answer:
        if not json.load(answer)["data"]["result"]:
            print(expression)
"""
"""Program that gets PromQL expressions as arguments, and prints the expressions without values. Starting promtool for
each expression would take most of the test's time."""

NEED_EVENTS = {
    "kepler_meter_flag",  # has values only if there is a reason to doubt the watts
    "kepler_meter_problem_info",  # has values only if there is a problem
    "kepler_meter_full_watts",  # has values only with a power source that knows the power at full load
    "kepler_meter_idle_watts",  # has values only with a power source that knows the idle power
    "kepler_core:online_trainer_error_to_limit",  # has values only after the online trainer has published models
    "kepler_online_trainer_interval_",  # has values only after the online trainer has published models
    "kepler_online_trainer_served_version",  # has values only after the online trainer has published models
    "kepler_online_trainer_decisions_total",  # has values only after the online trainer has published models
    "kepler_offline_trainer_jobs_ended_total",  # has values only after a training job
    "kepler_offline_trainer_models_total",  # has values only after a training job
}
"""Metrics that may have no values on a healthy laptop. A comment states when a metric has values."""


def expressions() -> dict[str, str]:
    """Return the expressions of the dashboards with values instead of variables. The keys are the original texts."""
    texts = [
        target["expr"]
        for name in ("power.json", "models.json")
        for panel in json.loads((MONITORING / name).read_text())["panels"]
        for target in panel.get("targets", [])
    ]
    return {text: text.replace("$instance", ".*").replace("$component", ".*") for text in texts}


def test_the_compose_file_is_valid() -> None:
    compose_spec = pytest.importorskip("compose_spec", reason="the package compose-spec is not installed")
    for file in (FILE, ROOT / "deploy" / "compose" / "compose.yaml"):
        # Replace variables such as ${NAME:?message} by their names, as only a compose program knows their values.
        content = re.sub(r"\$\{(\w+):\?[^}]*\}", r"\1", file.read_text())
        document = yaml.safe_load(content)
        compose_spec.ComposeSpecification.model_validate(document)
        for name, service in document["services"].items():
            # The model of compose_spec ignores unknown fields, so this test compares the names of the fields.
            assert set(service) <= set(compose_spec.Service.model_fields), name
        assert set(document) - {"x-server", "x-trainer"} <= set(compose_spec.ComposeSpecification.model_fields)


def test_images_and_names_fit_together() -> None:
    document = yaml.safe_load(FILE.read_text())
    services = document["services"]
    built = {one["image"] for one in services.values() if "build" in one}
    for name, one in services.items():
        own = one["image"].startswith("kepler-core")
        assert (one["image"] in built) == own
        assert set(one.get("depends_on", {})) <= set(services)
        assert one.get("cap_drop") == ["ALL"] or name == "grafana"
        for volume in one.get("volumes", []):
            source = volume.split(":")[0]
            assert source in document["volumes"] or source.startswith("/") or (FOLDER / source).exists(), volume
        assert all(port.startswith("127.0.0.1:") for port in one.get("ports", []))
    for one in services.values():
        if "build" in one:
            context = (FOLDER / one["build"]["context"]).resolve()
            assert (context / one["build"]["dockerfile"]).is_file()
    scraped = yaml.safe_load((FOLDER / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    targets = {target for job in scraped for static in job["static_configs"] for target in static["targets"]}
    assert {target.split(":")[0] for target in targets} == set(services) - {"prometheus", "grafana", "first-models"}


def test_grafana_finds_prometheus_and_the_dashboards() -> None:
    (source,) = yaml.safe_load((FOLDER / "grafana" / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert (source["type"], source["url"], source["isDefault"]) == ("prometheus", "http://prometheus:9090", True)
    (provider,) = yaml.safe_load((FOLDER / "grafana" / "dashboards" / "kepler-core.yaml").read_text())["providers"]
    grafana = yaml.safe_load(FILE.read_text())["services"]["grafana"]
    volumes = dict(text.split(":")[1::-1] for text in grafana["volumes"])
    assert (FOLDER / volumes[provider["options"]["path"]]).resolve() == MONITORING
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (MONITORING / Path(home).relative_to(provider["options"]["path"])).is_file()
    for name in ("power.json", "models.json"):
        dashboard = json.loads((MONITORING / name).read_text())
        variable = next(one for one in dashboard["templating"]["list"] if one["type"] == "datasource")
        assert variable["query"] == source["type"]


def wait_slowly(condition: Callable[[], bool], message: str) -> None:
    """Wait as `wait_for` does, but only evaluate the condition every 2 s, because each evaluation starts a process."""
    wait_for(condition, message, START_SECONDS, pause_seconds=2.0)


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposeServices]:
    """The running services, all healthy. At the end, stop them and check their exit codes."""
    need_prometheus()
    need_namespaces()
    if shutil.which(OTHER_PROGRAMS["node-exporter"]) is None:
        pytest.skip("prometheus-node-exporter is not installed (apt-get install prometheus-node-exporter)")
    services = ComposeServices(FILE, tmp_path_factory.mktemp("laptop"))
    names = [name for name in services.services if name != "grafana"]
    try:
        for name in names:
            other = OTHER_PROGRAMS.get(name)
            services.start(name, [other] if other else [], **({"user": "65534:65534"} if other else {}))
        for name in names:
            if name not in OTHER_PROGRAMS and name != "first-models":
                wait_slowly(lambda name=name: services.healthy(name), f"{name}: {services.log(name)}")
        yield services
    finally:
        codes = services.stop()
    assert {name: code for name, code in codes.items() if code not in (0, -15)} == {}
    for name in codes:
        assert "Traceback" not in services.log(name), services.log(name)


def query(services: ComposeServices, expression: str) -> list[dict[str, Any]]:
    """Return the result of a query to the Prometheus server of the compose file."""
    done = services.inside(["promtool", "query", "instant", "-o", "json", "http://prometheus:9090", expression])
    assert done.returncode == 0, done.stderr
    result: list[dict[str, Any]] = json.loads(done.stdout)
    return result


def test_all_targets_are_scraped(laptop: ComposeServices) -> None:
    wait_slowly(lambda: len(query(laptop, "up == 1")) == 7, "not all targets are up")
    watts = "sum by (instance) (rate(kepler_node_platform_joules_total[30s]))"

    def watts_of_the_machine() -> bool:
        """Return whether the simulated machine has plausible watts. Watts from its first samples alone are too low."""
        nodes = query(laptop, watts)
        return [node["metric"] for node in nodes] == [{"instance": "node-0"}] and 50 < float(nodes[0]["value"][1]) < 400

    wait_slowly(watts_of_the_machine, "the simulated node has no plausible power")
    assert query(laptop, "node_memory_MemTotal_bytes")


def test_the_model_server_serves_the_first_models(laptop: ComposeServices) -> None:
    assert laptop.wait("first-models", TRAIN_SECONDS) == 0, laptop.log("first-models")
    wait_slowly(lambda: bool(query(laptop, "kepler_model_server_models > 0")), "no models are served")


def test_the_dashboards_have_values(laptop: ComposeServices) -> None:
    laptop.wait("first-models", TRAIN_SECONDS)
    socket = f"/proc/{laptop.pid('estimator')}/root/tmp/estimator.sock"
    names = "bpf_cpu_time_ms,bpf_page_cache_hit"

    empty = expressions()
    end = time.monotonic() + TRAIN_SECONDS
    while any(all(name not in text for name in NEED_EVENTS) for text in empty):
        logs = [laptop.log(name) for name in ("online-trainer", "estimator")]
        assert time.monotonic() < end, f"panels without values: {list(empty)}, {logs}"
        laptop.inside([*laptop.program, "ask", "--socket", socket, "--metrics", names, "--values", ROWS])
        time.sleep(SCRAPE_SECONDS)
        done = laptop.inside([sys.executable, "-c", WITHOUT_VALUES, *empty.values()])
        assert done.returncode == 0, done.stderr
        without = set(done.stdout.splitlines())
        empty = {text: expression for text, expression in empty.items() if expression in without}
    print("panels without values:", list(empty))
