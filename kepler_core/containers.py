"""Select containers by names that stay the same when a pod is replaced.

A container is named namespace/pod/container. Kubernetes appends random letters (and a hash) to the names of
pods that a Deployment, DaemonSet or Job creates. The part before these additions is the workload's name.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import numpy as np

from kepler_core.arrays import BoolArray

if TYPE_CHECKING:
    from kepler_core.dataset import Dataset
    from kepler_core.recording.observations import Observations

# the letters and digits in Kubernetes' random suffixes (k8s.io/apimachinery, util/rand)
_RANDOM = "[bcdfghjklmnpqrstvwxz2456789]"
# The name of a Deployment's pod also contains a hash of the letters and digits in _RANDOM (Kubernetes'
# SafeEncodeString). The name of a CronJob's job ends with the scheduled time in minutes, a number of eight digits.
_POD = re.compile(rf"(?P<workload>.+?)(?:-(?:{_RANDOM}{{6,10}}|[0-9]{{8}}))?-{_RANDOM}{{5}}")


def workload(name: str) -> str:
    """Return a container's name without the random part of the pod's name, e.g. "kube-system/coredns/coredns".

    A name that does not have three parts is returned unchanged.
    """
    parts = name.split("/")
    if len(parts) != 3:
        return name
    namespace, pod, container = parts
    match = _POD.fullmatch(pod)
    return "/".join((namespace, match["workload"] if match else pod, container))


def matching(names: Iterable[str], wanted: Collection[str]) -> list[bool]:
    """Return for each container name whether it belongs to a wanted workload or matches a wanted pattern.

    `wanted` holds names of workloads and patterns. A pattern with *, ? or [ is compared with the whole name. A name
    without / is compared with the namespace, the pod and the container.
    """
    workloads = {workload(word) for word in wanted}
    patterns = [word for word in wanted if any(c in word for c in "*?[")]

    def matches(name: str) -> bool:
        own_workload = workload(name)
        parts = {*name.split("/"), *own_workload.split("/")}
        if name in wanted or own_workload in workloads or not parts.isdisjoint(wanted):
            return True
        return any(fnmatchcase(name, pattern) or fnmatchcase(own_workload, pattern) for pattern in patterns)

    return [matches(name) for name in names]


def container_rows(dataset: Dataset, observations: Observations, wanted: Collection[str]) -> BoolArray:
    """Return for each row of a data set by container whether the row belongs to a wanted container, shape (rows,).

    `wanted` contains names and patterns, which are compared as in `matching`.
    """
    names = dict(zip(observations.containers, observations.container_names, strict=True))
    containers = [str(container) for container in dataset.index.levels[3]]
    is_wanted = np.array(matching([names.get(container, container) for container in containers], wanted), dtype=bool)
    return is_wanted[np.asarray(dataset.index.codes[3], dtype=np.intp)]
