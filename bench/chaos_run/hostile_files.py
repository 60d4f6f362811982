"""A thread that puts malformed pipelines into a store, by `store import` and by copying files."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import attrs
from support.linear_models import LinearModel, files_of
from support.malformed_documents import CHANGES, malformed

from chaos_run import publisher
from chaos_run.ledger import Ledger
from chaos_run.servers import Places
from kepler_core.store.layout import zip_bytes
from kepler_core.store.local import VERSIONS

NAME = "hostile"
ESCAPED = "escaped.json"
"""Name of a file that one of the zip archives tries to write outside of the store."""
IMPORT_TIMEOUT_SECONDS = 60.0
KEEP_SECONDS = (0.5, 4.0)
"""Shortest and longest time, in seconds, for which a malformed pipeline stays in the store."""
PAUSE_SECONDS = (0.3, 2.0)
_BEST = 0.001
"""Mean absolute error in the metadata of those hostile models that servers cannot load.

It is the lowest error in the store, so that servers try these models first.
"""
_WORST = 99.0
"""Mean absolute error in the metadata of those hostile models that servers can load.

It is the highest error in the store, so that no client gets such a model.
"""


def _broken_model(graph: bytes) -> dict[str, bytes]:
    """Return the files of a pipeline whose best model has `graph` as its ONNX file."""

    class Broken(LinearModel):
        def stored(self) -> tuple[dict[str, object], dict[str, bytes]]:
            metadata, files = super().stored()
            layout = json.loads(files["model.json"])
            for component in layout["components"]:
                layout["components"][component] = {"ceiling": 1e5, "format": "onnx", "file": f"{component}.onnx"}
                files[f"{component}.onnx"] = graph
            files["model.json"] = json.dumps(layout).encode()
            return metadata, files

    return files_of(Broken(watts=publisher.model(1).watts, mae=_BEST))


def _constant_of_shape() -> bytes:
    """Return an ONNX graph that allocates 2 GB when it is evaluated."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [
            helper.make_node("ConstantOfShape", ["shape"], ["large"]),
            helper.make_node("ReduceSum", ["large"], ["sum"], keepdims=0),
            helper.make_node("Add", ["X", "sum"], ["Y"]),
        ],
        "g",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array([500_000_000]), "shape")],
    )
    return bytes(onnx.helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString())


def _good() -> dict[str, bytes]:
    return files_of(LinearModel(watts=publisher.model(1).watts, mae=_WORST))


@functools.cache
def _unpacks_to_200_mib() -> bytes:
    return zip_bytes({**_good(), "zeros": bytes(200 * 2**20)})


def archives(choices: random.Random) -> dict[str, Callable[[], bytes]]:
    """Return functions that make malformed archives for `store import`, by the description of the archive."""
    whole = zip_bytes({**_good(), "other/x.bin": choices.randbytes(10_000)})
    damaged = bytearray(whole)
    for _ in range(20):
        damaged[choices.randrange(len(damaged))] ^= choices.randrange(1, 256)
    return {
        "random bytes": lambda: choices.randbytes(50_000),
        "cut": lambda: whole[: choices.randrange(len(whole))],
        "flipped bytes": lambda: bytes(damaged),
        "a path that leads out": lambda: zip_bytes({**_good(), f"../../../{ESCAPED}": b"{}"}),
        "much larger unpacked": _unpacks_to_200_mib,
        "random ONNX": lambda: zip_bytes(_broken_model(choices.randbytes(300))),
        "an ONNX graph that fills the memory": lambda: zip_bytes(_broken_model(_constant_of_shape())),
        **{change: lambda change=change: zip_bytes(malformed(change)) for change in CHANGES},  # type: ignore[misc]
    }


def copies(choices: random.Random) -> dict[str, Callable[[Path], None]]:
    """Return functions that create a malformed pipeline at a path, by the description of the pipeline."""

    def write(files: dict[str, bytes]) -> Callable[[Path], None]:
        def create(folder: Path) -> None:
            for name, content in files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)

        return create

    def half_copied(folder: Path) -> None:
        write(dict(choices.sample(sorted(_good().items()), 4)))(folder)

    def with_a_pipe(folder: Path) -> None:
        write(_good())(folder)
        (folder / "node_type_index.json").unlink()
        os.mkfifo(folder / "node_type_index.json")

    def without_permission(folder: Path) -> None:
        write(_good())(folder)
        (folder / "metadata.json").chmod(0)

    return {
        "random files": lambda folder: write({"metadata.json": choices.randbytes(999), "x.zip": b"PK"})(folder),
        "half copied": half_copied,
        "a named pipe": with_a_pipe,
        "an unreadable file": without_permission,
        "a link with a long target": lambda folder: folder.symlink_to("x" * 4000),
        "a link to itself": lambda folder: folder.symlink_to(folder.name),
        "a link to /proc": lambda folder: folder.symlink_to("/proc/self"),
        "a file": lambda folder: folder.write_bytes(b"x") and None,
        "a broken model": lambda folder: write(_broken_model(choices.randbytes(300)))(folder),
        **{f"copied {change}": write(malformed(change)) for change in CHANGES},
    }


@attrs.define(eq=False)
class Vandal:
    """A thread that imports archives and copies files, and removes each malformed pipeline after some seconds."""

    places: Places
    ledger: Ledger
    choices: random.Random
    disk_is_full: threading.Event
    _stop: threading.Event = attrs.field(factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        assert self._thread is not None
        self._thread.join()
        if list(self.places.folder.rglob(ESCAPED)) or list(self.places.folder.parent.glob(ESCAPED)):
            self.ledger.fault("files written outside of the store", ESCAPED)

    def _run(self) -> None:
        imported, copied = archives(self.choices), copies(self.choices)
        number = 0
        while not self._stop.wait(self.choices.uniform(*PAUSE_SECONDS)):
            number += 1
            name = f"{NAME}-{number}"
            if number % 2:
                self._import(name, *self.choices.choice(list(imported.items())))
            else:
                create = self.choices.choice(list(copied.values()))
                with contextlib.suppress(OSError):  # the disk may be full
                    create(self.places.store / name)
                self.ledger.count("store", "malformed pipeline copied in")
            self._stop.wait(self.choices.uniform(*KEEP_SECONDS))
            self._remove(name)

    def _import(self, name: str, kind: str, content: Callable[[], bytes]) -> None:
        archive = self.places.folder / f"{name}.zip"
        archive.write_bytes(content())
        options = ["--name", name, "--store", str(self.places.store)]
        command = [sys.executable, "-m", "kepler_core", "store", "import", str(archive), *options]
        try:
            done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=IMPORT_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self.ledger.fault("imports without an end", kind)
        else:
            if "Traceback" in done.stderr:
                self.ledger.fault("tracebacks", f"store import of an archive with {kind}: {done.stderr[-500:]}")
            self.ledger.count("store", "archive imported" if done.returncode == 0 else "archive rejected")
        archive.unlink()

    def _remove(self, name: str) -> None:
        path = self.places.store / name
        if path.is_symlink() or path.is_file():
            path.unlink()
        for folder in (path, self.places.store / VERSIONS / name):
            shutil.rmtree(folder, ignore_errors=True)
