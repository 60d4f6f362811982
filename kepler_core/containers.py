"""Which containers are meant: names that stay the same when a pod is started anew.

A container is named namespace/pod/container. Kubernetes ends the name of a pod that a Deployment,
DaemonSet or Job made with random letters (and a hash); the workload's name is what is before them.
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

# the letters of Kubernetes' random suffixes (k8s.io/apimachinery, util/rand)
_RANDOM = "[bcdfghjklmnpqrstvwxz2456789]"
# a template's hash is spelt with them too (SafeEncodeString); a CronJob's jobs end in the time in minutes
_POD = re.compile(rf"(?P<workload>.+?)(?:-(?:{_RANDOM}{{6,10}}|[0-9]{{8}}))?-{_RANDOM}{{5}}")


def workload(name: str) -> str:
    """The name without what is random in its pod's: "kube-system/coredns/coredns"."""
    parts = name.split("/")
    if len(parts) != 3:
        return name
    found = _POD.fullmatch(parts[1])
    return "/".join((parts[0], found["workload"] if found else parts[1], parts[2]))


def matching(names: Iterable[str], wanted: Collection[str]) -> list[bool]:
    """Per name, whether it is one of a wanted workload, or fits a pattern.

    A pattern with *, ? or [ is compared with the whole name, a word without / with each of its parts.
    """
    workloads = {workload(pattern) for pattern in wanted}
    patterns = [pattern for pattern in wanted if any(c in pattern for c in "*?[")]

    def fits(name: str) -> bool:
        plain = workload(name)
        parts = {*name.split("/"), *plain.split("/")}
        if name in wanted or plain in workloads or not parts.isdisjoint(wanted):
            return True
        return any(fnmatchcase(name, p) or fnmatchcase(plain, p) for p in patterns)

    return [fits(name) for name in names]


def container_rows(dataset: Dataset, observations: Observations, wanted: Collection[str]) -> BoolArray:
    """Which rows of a data set by container are of the wanted ones (as `matching` has it), shape (rows,)."""
    names = dict(zip(observations.containers, observations.container_names, strict=True))
    level = [str(container) for container in dataset.index.levels[3]]
    fits = np.array(matching([names.get(container, container) for container in level], wanted), dtype=bool)
    return fits[np.asarray(dataset.index.codes[3], dtype=np.intp)]
