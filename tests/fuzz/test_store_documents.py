"""Fuzz documents and archives of pipelines: each is accepted and readable, or refused with an error of one line."""

from __future__ import annotations

import contextlib
import io
import json
import os
import stat
import zipfile
from typing import Any

from hypothesis import strategies as st
from support.fuzzing import damaged, fuzz, mostly
from support.malformed_documents import CHANGES, malformed
from support.selection import HASWELL, request_for
from support.server_process import check_one_line
from support.small_pipelines import SmallModel, curve, linear, pipeline

from kepler_core.errors import KeplerError, ModelError, StoreError
from kepler_core.selection import Catalogue
from kepler_core.selection.reading import read_pipeline_models
from kepler_core.store import Snapshot
from kepler_core.store.archive import read_archive
from kepler_core.store.decisions import read_decision
from kepler_core.store.documents import check_documents
from kepler_core.store.layout import zip_bytes
from kepler_core.store.manifest import MANIFEST_FILE, make_manifest, read_manifest
from kepler_profiler.similarity import SpecTable

MODELS = [
    SmallModel(),
    SmallModel(node_type=1, data="x", constant_mae=2.0, mae=3.0),
    SmallModel("LogarithmicRegressionTrainer", weights={"package": curve([1.0, 2.0, 3.0])}),
    SmallModel(output_type="DynPower", source="acpi", weights={"platform": linear(1.0)}),
]
FILES = pipeline(*MODELS, node_types={0: {}, 1: HASWELL})
DOCUMENTS = sorted(name for name in FILES if name.endswith(".json"))
KEYS = [
    "features", "mae", "mape", "machine_spec", "trainer", "model_name", "output_type", "validation", "components",
    "package", "timestamps", "lineage", "data", "package_mae", "r2", "constant_mae", "attrs", "members", "cores",
    "processor", "memory", "0", "1", "-1", "All_Weights", "Bias_Weight", "Numerical_Variables", "CurveFit_Weights",
    "scale", "weight", "Categorical_Variables", "name", "last_update_time", "online", "trained_until", "",
]  # fmt: skip

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([*KEYS, 10**400, 2**53, -1, "x" * 5000])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)


def replaced(content: Any, path: list[int], value: Any) -> Any:
    """Return a document in which one value is replaced. Each number of `path` chooses a child by its position."""
    if not path or not isinstance(content, dict | list) or not content:
        return value
    keys: Any = list(content) if isinstance(content, dict) else range(len(content))
    key = keys[path[0] % len(keys)]
    items = dict(content) if isinstance(content, dict) else list(content)
    items[key] = replaced(content[key], path[1:], value)
    return items


@st.composite
def changed_documents(draw: st.DrawFn) -> tuple[str, bytes]:
    """Choose one of a pipeline's documents. Return its name, and its content with up to three random values."""
    name = draw(st.sampled_from(DOCUMENTS))
    content = json.loads(FILES[name])
    for _ in range(draw(st.integers(1, 3))):
        content = replaced(content, draw(st.lists(st.integers(0, 20), max_size=5)), draw(values))
    return name, json.dumps(content).encode()


@st.composite
def damaged_documents(draw: st.DrawFn) -> tuple[str, bytes]:
    name = draw(st.sampled_from(DOCUMENTS))
    return name, draw(damaged(st.just(FILES[name])))


def with_document(name: str, content: bytes) -> dict[str, bytes]:
    """Return the pipeline's files with new content of one document. A model's archive gets the new content, too."""
    files = {**FILES, name: content}
    folder, _, base_name = name.rpartition("/")
    if f"{folder}.zip" in files:
        prefix = f"{folder}/"
        members = {path.removeprefix(prefix): data for path, data in files.items() if path.startswith(prefix)}
        files[f"{folder}.zip"] = zip_bytes({**members, base_name: content})
    return files


def read_everything(files: dict[str, bytes]) -> None:
    """Read a pipeline's models and node types, select a model, and load all models. Errors must be one line."""
    snapshot = Snapshot("p", 1, "here", None, frozenset(files), lambda name, _: files[name])
    try:
        models, node_types = read_pipeline_models(snapshot)
    except StoreError as error:
        check_one_line(error, longest=6000)
        return
    catalogue = Catalogue(models, {"p": node_types}, {}, compare=SpecTable, location="here")
    for machine in ({}, HASWELL):
        for weights in (False, True):
            try:
                selection = catalogue.select(request_for(machine_spec=machine, weights=weights, filter="mae:1000"))
                json.dumps(selection.explain(), allow_nan=False)
            except KeplerError as error:
                check_one_line(error, longest=6000)
    for model in models:
        try:
            model.load()
        except (ModelError, StoreError) as error:
            check_one_line(error, longest=6000)


def check_document(document: tuple[str, bytes]) -> None:
    """Check a pipeline with one changed document: it is accepted, or refused with a one-line error.

    Publishing and reading are checked.
    """
    name, content = document
    files = with_document(name, content)
    try:
        check_documents(files, "here")
    except StoreError as error:
        check_one_line(error, longest=6000)
    read_everything(files)


def test_documents_of_a_pipeline() -> None:
    fuzz(changed_documents() | damaged_documents(), check_document)


def check_manifest_or_decision(content: bytes) -> None:
    try:
        read_manifest(content, "here")
    except StoreError as error:
        check_one_line(error, longest=6000)
    decision = read_decision(content)
    assert decision is None or isinstance(decision, dict)


def test_manifests_and_decisions() -> None:
    manifest = make_manifest(FILES).encode()
    decisions = st.fixed_dictionaries({}, optional=dict.fromkeys(["decision", "version", "time", "models"], values))
    documents = st.just(manifest) | st.builds(
        lambda path, value: json.dumps(replaced(json.loads(manifest), path, value)).encode(),
        st.lists(st.integers(0, 20), max_size=4),
        values,
    )
    fuzz(
        documents | damaged(documents) | decisions.map(lambda decision: json.dumps(decision).encode()),
        check_manifest_or_decision,
    )


NAMES = [
    *FILES, MANIFEST_FILE, "../x", "/x", "a\\b", "C:x", "a//b", "./a", "", "a/", "metadata.json/", "\0", "x" * 2000,
    "é",
]  # fmt: skip


@st.composite
def archives(draw: st.DrawFn) -> bytes:
    """Generate a zip archive of a pipeline. Contents, names and types (file, link …) of its files may be wrong."""
    files = draw(
        st.just(FILES)
        | changed_documents().map(lambda document: with_document(*document))
        | st.sampled_from(sorted(CHANGES)).map(malformed)
    )
    files = {**files, **draw(mostly(st.just({}), st.dictionaries(st.sampled_from(NAMES), st.binary(max_size=20))))}
    if draw(st.booleans()):
        pipeline = draw(st.none() | st.sampled_from(["p", "../x", "/x"]) | st.text(max_size=8))
        files[MANIFEST_FILE] = make_manifest(files, pipeline).encode()
    prefix = draw(mostly(st.sampled_from(["", "p/"]), st.sampled_from(["p/q/", "../"])))
    kind = draw(mostly(st.just(stat.S_IFREG), st.sampled_from([stat.S_IFLNK, stat.S_IFCHR, stat.S_IFDIR])))
    buffer = io.BytesIO()
    method = draw(mostly(st.sampled_from([zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED]), st.just(zipfile.ZIP_BZIP2)))
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo("placeholder")
            info.filename = prefix + name  # assigned here, because `ZipInfo(…)` would change unsafe names
            info.compress_type = method
            info.external_attr = kind << 16
            with contextlib.suppress(UnicodeEncodeError):
                archive.writestr(info, content)
    return buffer.getvalue()


@st.composite
def damaged_archives(draw: st.DrawFn) -> bytes:
    """Generate a zip archive with up to four random changes of bytes, often in the list of files at its end."""
    content = bytearray(draw(archives()))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)) | st.integers(max(0, len(content) - 300), len(content)))
        content[at : at + draw(st.integers(0, 8))] = draw(st.binary(max_size=8))
    return bytes(content)


def check_archive(content: bytes) -> None:
    """Check that an archive is imported and can be read, or is refused."""
    try:
        files = read_archive(content, "x.zip")
    except StoreError as error:
        check_one_line(error, longest=6000)
        return
    for name in files:
        assert not os.path.isabs(name)
        assert ".." not in name.split("/")
    check_documents(files, "x.zip")
    read_everything(files)


def test_archives() -> None:
    fuzz(archives() | damaged_archives() | damaged(st.just(zip_bytes(FILES))), check_archive)
