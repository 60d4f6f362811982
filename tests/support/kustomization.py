"""Resolves kustomizations like `kubectl kustomize`, but only the fields and patches in `deploy/kustomize`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "volumeMounts": "mountPath",
    "ports": "containerPort",
}
"""For each list that a strategic merge patch merges: the key of its items. Other lists are replaced."""

_FIELDS = {"apiVersion", "kind", "namespace", "resources", "images", "patches", "components"}
_CLUSTER_KINDS = {"Namespace", "ClusterRole", "ClusterRoleBinding"}


def resolve(folder: Path) -> list[dict[str, Any]]:
    """Return the objects of the kustomization in a folder. Fail if it has a field that is not in `_FIELDS`."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert kustomization["kind"] in ("Kustomization", "Component")
    unknown = set(kustomization) - _FIELDS
    assert not unknown, f"{folder}: unknown fields {unknown}"
    objects: list[dict[str, Any]] = []
    for name in kustomization.get("resources", []):
        path = folder / name
        objects += resolve(path) if path.is_dir() else _documents(path)
    for name in kustomization.get("components", []):
        objects += resolve(folder / name)
    for patch in kustomization.get("patches", []):
        target = patch["target"]
        matching = [at for at, one in enumerate(objects) if _matches(one, target)]
        assert matching, f"{folder}: the patch {patch['path']} has no target"
        (content,) = _documents(folder / patch["path"])
        for at in matching:
            objects[at] = merged(objects[at], content)
    for one in objects:
        if "namespace" in kustomization and one["kind"] not in _CLUSTER_KINDS:
            one["metadata"]["namespace"] = kustomization["namespace"]
        for container in containers(one):
            for image in kustomization.get("images", []):
                if container["image"].split(":")[0] == image["name"]:
                    container["image"] = f"{image['newName']}:{image['newTag']}"
    names = [(one["kind"], one["metadata"]["name"]) for one in objects]
    assert len(names) == len(set(names)), f"{folder}: two objects of one name"
    return objects


def containers(one: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the containers of a Deployment or DaemonSet, init containers first. Other kinds have no containers."""
    pod = one.get("spec", {}).get("template", {}).get("spec", {})
    return [*pod.get("initContainers", []), *pod.get("containers", [])]


def merged(base: Any, patch: Any, key: str = "") -> Any:
    """Return `base` after the strategic merge patch `patch`. `key` is the YAML key that has `base` as its value."""
    if isinstance(base, dict) and isinstance(patch, dict):
        assert not any(name.startswith("$") for name in patch), f"unknown directive in {patch}"
        result = {**base}
        for name, value in patch.items():
            if value is None:
                result.pop(name, None)
            else:
                result[name] = merged(base[name], value, name) if name in base else value
        return result
    if isinstance(base, list) and isinstance(patch, list) and key in MERGE_KEYS:
        by = MERGE_KEYS[key]
        changes = {item[by]: item for item in patch}
        items = [merged(item, changes.pop(item[by])) if item[by] in changes else item for item in base]
        return [*items, *changes.values()]
    return patch


def _documents(path: Path) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(path.read_text()) if one is not None]


def _matches(one: Mapping[str, Any], target: Mapping[str, str]) -> bool:
    return one["kind"] == target["kind"] and one["metadata"]["name"] == target["name"]
