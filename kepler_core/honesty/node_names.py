"""Names of nodes in recordings. They show whether a machine was part of a training."""

from __future__ import annotations

from kepler_core.urls import is_loopback


def host_of(node: str) -> str | None:
    """Return the host in the name of a node, e.g. `node7.example` in `node7.example:9102`.

    The name comes from a label such as `instance`. Return None if the host is a loopback address or empty. Every
    machine can have such a name, so it does not show that two recordings are of the same machine.
    """
    host, colon, port = node.rpartition(":")
    if not (colon and port.isdigit()):
        host = node
    host = host.removeprefix("[").removesuffix("]")
    return None if not host or is_loopback(host) else host
