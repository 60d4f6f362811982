"""Tests of `deploy/kustomize`: all objects are valid, refer to each other, and fit the servers."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from support.kustomization import containers, merged, resolve
from support.paths import ROOT

from kepler_servers.commands import SERVERS

FOLDER = ROOT / "deploy" / "kustomize"
OVERLAYS = ("kepler-0.9", "kepler-0.10", "trainers")
VERSIONS = ("1.29", "1.37")
"""Kubernetes versions whose schemas the tests use. In 1.29, sidecar containers are first enabled by default."""
PORTS = {"model-server": 8100, "offline-trainer": 8102, "online-trainer": 8103, "estimator": 9103, "meter": 8104}

KEPLER = {
    "kepler-0.9": """
apiVersion: v1
kind: ConfigMap
metadata: {name: kepler-cfm}
data: {ENABLE_GPU: "true", MODEL_CONFIG: "NODE_COMPONENTS_INIT_URL="}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: kepler-exporter}
spec:
  selector: {matchLabels: {app.kubernetes.io/component: exporter}}
  template:
    metadata: {labels: {app.kubernetes.io/component: exporter}}
    spec:
      hostNetwork: true
      containers:
        - name: kepler-exporter
          image: kepler:0.7
          securityContext: {privileged: true}
          volumeMounts: [{name: proc, mountPath: /proc}]
      volumes: [{name: proc, hostPath: {path: /proc}}]
""",
    "kepler-0.10": """
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: kepler}
spec:
  selector: {matchLabels: {app: kepler}}
  template:
    metadata: {labels: {app: kepler}}
    spec:
      containers:
        - {name: kepler, image: kepler:0.11, volumeMounts: [{name: sysfs, mountPath: /host/sys, readOnly: true}]}
      volumes: [{name: sysfs, hostPath: {path: /sys}}, {name: procfs, hostPath: {path: /proc}}]
""",
}
"""For each overlay: the objects of Kepler's own manifests that the overlay changes. This repository does not contain
Kepler's manifests."""


@pytest.fixture(scope="module")
def overlays(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """Return the objects of each overlay, built with all components. `KEPLER` replaces Kepler's manifests."""
    folder = tmp_path_factory.mktemp("kustomize") / "kustomize"
    shutil.copytree(FOLDER, folder)
    for name, text in KEPLER.items():
        kepler = folder / "overlays" / name / "kepler"
        kepler.mkdir()
        (kepler / "kepler.yaml").write_text(text)
        (kepler / "kustomization.yaml").write_text("{kind: Kustomization, resources: [kepler.yaml]}")
    trainers = folder / "overlays" / "trainers" / "kustomization.yaml"
    trainers.write_text(trainers.read_text().replace("# components:", "components:"))
    return {name: resolve(folder / "overlays" / name) for name in OVERLAYS}


def pods(objects: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield each object that has a pod template, and the template."""
    for one in objects:
        if containers(one):
            yield one, one["spec"]["template"]


def own_containers(objects: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, Any], str]]:
    """For each container that runs Kepler Core, yield the pod, the container and the name of the server."""
    for _, pod in pods(objects):
        for container in containers({"spec": {"template": pod}}):
            if "kepler-core" in container["image"]:
                program, serve, server = container["args"][:3]
                assert (program, serve) == ("kepler-model", "serve")
                yield pod, container, server


def test_strategic_merge_patches() -> None:
    base = {"spec": {"volumes": [{"name": "a", "emptyDir": {}}, {"name": "b"}], "args": [1]}}
    patch = {"spec": {"volumes": [{"name": "a", "emptyDir": None, "pvc": 1}, {"name": "c"}], "args": [2]}}
    assert merged(base, patch) == {
        "spec": {"volumes": [{"name": "a", "pvc": 1}, {"name": "b"}, {"name": "c"}], "args": [2]}
    }


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_knows_all_fields(overlays: dict[str, list[dict[str, Any]]], overlay: str, version: str) -> None:
    schemas = pytest.importorskip("kubernetes_validate", reason="the package kubernetes-validate is not installed")
    checked = [one for one in overlays[overlay] if one["apiVersion"] != "monitoring.coreos.com/v1"]
    assert len(checked) >= 3
    for one in checked:
        schemas.validate(one, version, strict=True)
    broken = yaml.safe_load(yaml.safe_dump(next(one for one in checked if containers(one))))
    containers(broken)[0]["readinesProbe"] = {}
    with pytest.raises(schemas.ValidationError):
        schemas.validate(broken, version, strict=True)


def test_monitors_select_services_and_pods(overlays: dict[str, list[dict[str, Any]]]) -> None:
    objects = overlays["trainers"]
    monitors = [one for one in objects if one["kind"] in ("ServiceMonitor", "PodMonitor")]
    services = {one["metadata"]["name"]: one for one in objects if one["kind"] == "Service"}
    assert {one["metadata"]["name"] for one in monitors} == {*services, "kepler-meter"}
    for one in monitors:
        labels = one["spec"]["selector"]["matchLabels"]
        assert set(one["spec"]) == {
            "selector",
            "endpoints" if one["kind"] == "ServiceMonitor" else "podMetricsEndpoints",
        }
        if one["kind"] == "ServiceMonitor":
            service = services[one["metadata"]["name"]]
            assert labels.items() <= service["metadata"]["labels"].items()
            (endpoint,) = one["spec"]["endpoints"]
            assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_selectors_find_the_pods(overlays: dict[str, list[dict[str, Any]]], overlay: str) -> None:
    objects = overlays[overlay]
    labels = [pod["metadata"]["labels"] for _, pod in pods(objects)]
    for one in objects:
        spec = one.get("spec", {})
        selectors = [spec[key] for key in ("selector", "podSelector") if key in spec and "Monitor" not in one["kind"]]
        for selector in selectors:
            wanted = selector.get("matchLabels", selector)
            assert any(wanted.items() <= each.items() for each in labels), one


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_names_in_pods_exist(overlays: dict[str, list[dict[str, Any]]], overlay: str) -> None:
    objects = overlays[overlay]
    names = {
        kind: {one["metadata"]["name"] for one in objects if one["kind"] == kind}
        for kind in ("ConfigMap", "PersistentVolumeClaim")
    }
    for _, pod in pods(objects):
        volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", [])}
        for volume in volumes.values():
            assert len(volume) == 2, volume
            assert volume.get("configMap", {}).get("name") in {None, *names["ConfigMap"]}
            assert volume.get("persistentVolumeClaim", {}).get("claimName") in {None, *names["PersistentVolumeClaim"]}
        for container in containers({"spec": {"template": pod}}):
            ports = {port.get("name") for port in container.get("ports", [])} | {
                port["containerPort"] for port in container.get("ports", [])
            }
            for mount in container["volumeMounts"]:
                assert mount["name"] in volumes, mount
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                if probe in container:
                    assert container[probe]["httpGet"]["port"] in ports
    for one in objects:
        if one["kind"] == "Service":
            (port,) = one["spec"]["ports"]
            (named,) = [
                container["ports"][0]
                for _, pod in pods(objects)
                if one["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
                for container in pod["spec"]["containers"]
            ]
            assert (named["name"], named["containerPort"]) == (port["targetPort"], port["port"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_options_and_keys_are_those_of_the_servers(overlays: dict[str, list[dict[str, Any]]], overlay: str) -> None:
    documented = set(re.findall(r"`([A-Z][A-Z_]+)`", (ROOT / "docs" / "configuration.md").read_text()))
    configs = {one["metadata"]["name"]: one["data"] for one in overlays[overlay] if one["kind"] == "ConfigMap"}
    seen = set()
    for pod, container, server in own_containers(overlays[overlay]):
        seen.add(server)
        options = {option for parameter in SERVERS[server].load().params for option in parameter.opts}
        assert {word.partition("=")[0] for word in container["args"][3:]} <= options
        assert container["ports"][0]["containerPort"] == PORTS[server]
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
        if (config := mounts.get("/etc/kepler/kepler.config")) is not None and config["configMap"][
            "name"
        ] != "kepler-cfm":
            assert set(configs[config["configMap"]["name"]]) <= documented
    assert seen


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_are_restricted(overlays: dict[str, list[dict[str, Any]]], overlay: str) -> None:
    """Pods obey the Kubernetes security standard `restricted`. Only the meter runs as root, to read host files."""
    for pod, container, server in own_containers(overlays[overlay]):
        security = {**pod["spec"].get("securityContext", {}), **container["securityContext"]}
        assert security["readOnlyRootFilesystem"] is True
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"]["drop"] == ["ALL"]
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["resources"]["limits"]["memory"]
        assert set(container["resources"]["requests"]) == {"cpu", "memory"}
        if server != "meter":
            assert (security["runAsNonRoot"], security["runAsUser"]) == (True, 10001)
            assert "add" not in security["capabilities"]
            assert any(mount["mountPath"] == "/tmp" for mount in container["volumeMounts"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_images_are_replaced(overlays: dict[str, list[dict[str, Any]]], overlay: str) -> None:
    for _, container, server in own_containers(overlays[overlay]):
        name = "kepler-core-train" if server.endswith("trainer") else "kepler-core"
        assert container["image"] == f"registry.example.com/{name}:latest"


def test_the_estimator_starts_before_kepler_and_shares_its_tmp(overlays: dict[str, list[dict[str, Any]]]) -> None:
    objects = {(one["kind"], one["metadata"]["name"]): one for one in overlays["kepler-0.9"]}
    pod = objects["DaemonSet", "kepler-exporter"]["spec"]["template"]["spec"]
    (estimator,), (kepler,) = pod["initContainers"], pod["containers"]
    assert estimator["restartPolicy"] == "Always"
    assert "startupProbe" in estimator
    shared = {"name": "estimator-socket", "mountPath": "/tmp"}
    assert shared in estimator["volumeMounts"]
    assert shared in kepler["volumeMounts"]
    assert kepler["image"] == "kepler:0.7"
    assert {"name": "proc", "mountPath": "/proc"} in kepler["volumeMounts"]
    data = objects["ConfigMap", "kepler-cfm"]["data"]
    assert (data["ENABLE_GPU"], data["MODEL_SERVER_ENABLE"]) == ("true", "true")
    assert all(one["metadata"]["namespace"] == "kepler" for one in objects.values())


def test_kepler_reads_the_tree_of_the_meter(overlays: dict[str, list[dict[str, Any]]]) -> None:
    objects = {(one["kind"], one["metadata"]["name"]): one for one in overlays["kepler-0.10"]}
    volumes = objects["DaemonSet", "kepler"]["spec"]["template"]["spec"]["volumes"]
    assert volumes[0] == {"name": "sysfs", "hostPath": {"path": "/run/kepler-core/sysfs", "type": "Directory"}}
    (meter,) = containers(objects["DaemonSet", "kepler-meter"])
    assert "--tree=/run/kepler-core/sysfs" in meter["args"]
