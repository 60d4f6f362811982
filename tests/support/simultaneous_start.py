"""A program that starts two processes at the same time, which try to listen on the same stale socket.

    python -m support.simultaneous_start SOCKET REPETITIONS

Prints, for each repetition, the number of processes that listen and the number of processes that a client reaches.

It is a program of its own because each repetition forks twice. A fork of this small process needs less CPU time than a
fork of pytest's process.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from pathlib import Path

from kepler_servers.estimator.listening import listen
from support.estimator_clients import connect
from support.process import PATIENCE


def start_at_once(path: Path) -> tuple[int, int]:
    """Start two processes that try to listen on the same stale socket at the same time.

    Returns the number of processes that listen, and the number of processes that a client reaches.
    """
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    barrier = multiprocessing.get_context("fork").Barrier(2)
    pipes = [os.pipe() for _ in range(2)]
    done = [os.pipe() for _ in range(2)]
    children = []
    for (_, writer), (reader, _) in zip(pipes, done, strict=True):
        if not (child := os.fork()):
            try:
                barrier.wait(PATIENCE)
                listening = listen([str(path)])
                os.write(writer, b"y")
                os.read(reader, 1)
                listening[0].listener.setblocking(False)
                listening[0].listener.accept()
                os.write(writer, b"y")
            except BaseException:
                os.write(writer, b"n")
            finally:
                os._exit(0)
        children.append(child)
    listens = [os.read(reader, 1) == b"y" for reader, _ in pipes]
    with connect(path):
        reached = 0
        for index, (reader, _) in enumerate(pipes):
            if listens[index]:
                os.write(done[index][1], b"x")
                reached += os.read(reader, 1) == b"y"
    for child in children:
        os.waitpid(child, 0)
    for descriptor in (descriptor for pair in (*pipes, *done) for descriptor in pair):
        os.close(descriptor)
    path.unlink(missing_ok=True)
    return sum(listens), reached


if __name__ == "__main__":
    for _ in range(int(sys.argv[2])):
        print(*start_at_once(Path(sys.argv[1])))
