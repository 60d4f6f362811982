"""Test that import, publish and verify refuse pipelines with a malformed document. Other pipelines stay usable."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.live_store import LiveStore
from support.malformed_documents import CHANGES, malformed
from support.server_process import serving
from support.small_pipelines import SmallModel, linear, pipeline

from kepler_core.documents import MAX_DEPTH, DocumentError, decode_json, decode_object, decode_value
from kepler_core.errors import StoreError
from kepler_core.selection.reading import read_catalogue
from kepler_core.store.documents import NodeTypeEntry
from kepler_core.store.layout import zip_bytes
from kepler_core.store.local import LocalStore


def kepler_model(*arguments: str | Path, code: int) -> str:
    """Run a command, check its exit code, and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "kepler_core", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    """A store with one good pipeline, and many pipelines with one malformed JSON document each.

    The malformed pipelines were published without checks.
    """
    store = LocalStore(tmp_path_factory.mktemp("poisoned") / "store")
    store.publish("good", pipeline(SmallModel(weights={"package": linear(7.0)})))
    for change in CHANGES:
        store._publish(change, malformed(change), None)
    return store


@pytest.fixture(scope="module")
def live(poisoned: LocalStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveStore]:
    with serving(poisoned.root, tmp_path_factory.mktemp("log") / "server.log") as server:
        yield LiveStore(poisoned, server)


# --- pipelines with malformed documents do not get into a store ---


@pytest.mark.parametrize("change", CHANGES)
def test_publish_refuses_it(tmp_path: Path, change: str) -> None:
    store = LocalStore(tmp_path / "store")
    with pytest.raises(StoreError, match=CHANGES[change][0]) as caught:
        store.publish("p", malformed(change))
    assert len(str(caught.value)) < 500
    assert store.pipelines() == []


@pytest.mark.parametrize("change", CHANGES)
def test_import_refuses_it(tmp_path: Path, change: str) -> None:
    (tmp_path / "p.zip").write_bytes(zip_bytes(malformed(change)))
    output = kepler_model("store", "import", tmp_path / "p.zip", "-s", tmp_path / "store", code=1)
    assert CHANGES[change][0] in output
    assert len(output.splitlines()) == 1
    assert not LocalStore(tmp_path / "store").pipelines()


def test_verify_names_each(poisoned: LocalStore) -> None:
    output = kepler_model("store", "verify", "-s", poisoned.root, code=1)
    assert "good version 1: ok" in output
    for change, (document, _) in CHANGES.items():
        assert f"{change} version 1: damaged" in output
        assert document in output


# --- a store into which malformed documents were published without checks ---


def test_the_catalogue_has_all_others(poisoned: LocalStore) -> None:
    catalogue = read_catalogue(poisoned)
    assert [model.pipeline for model in catalogue.models] == ["good"]
    assert set(catalogue.broken) == set(CHANGES)


def test_select_chooses_among_the_others(poisoned: LocalStore) -> None:
    output = kepler_model(
        "select",
        "-s",
        poisoned.root,
        "--metrics",
        "bpf_cpu_time_ms,bpf_page_cache_hit",
        "--output-type",
        "AbsPower",
        code=0,
    )
    assert "of pipeline good" in output


def test_a_server_starts_and_names_each(live: LiveStore) -> None:
    assert live.bias("good") == 7.0
    for change in CHANGES:
        assert CHANGES[change][0].rpartition("/")[2] in live.wait_broken(change)


def test_a_server_serves_what_is_published_afterwards(live: LiveStore) -> None:
    live.publish("later", bias=3.0)
    live.wait_for_bias("later", 3.0)


def test_a_link_with_a_long_target_is_one_broken_pipeline(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    store.publish("good", pipeline(SmallModel()))
    (store.root / "long").symlink_to("x" * 300)
    assert store.pipelines() == ["good", "long"]
    assert set(read_catalogue(store).broken) == {"long"}


# --- decoding ---


@given(st.binary(max_size=200) | st.text('[]{}":,0123456789eE.+- \\', max_size=200).map(str.encode))
def test_any_bytes_decode_or_raise_one_error(content: bytes) -> None:
    with contextlib.suppress(DocumentError):
        assert isinstance(decode_object(content), dict)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
NUMBERS = st.integers() | st.integers(2**53 - 3, 2**53 + 3) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(NUMBERS | TEXTS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner))


@given(VALUES, st.booleans())
def test_a_number_is_refused_exactly_if_it_is_too_large(value: object, ascii_only: bool) -> None:
    content = json.dumps(value, ensure_ascii=ascii_only).encode()
    if largest(value) > 2**53:
        with pytest.raises(DocumentError):
            decode_value(content)
    else:
        assert decode_value(content) == value


def largest(value: object) -> float:
    """Return the largest absolute value of the numbers in a JSON value."""
    if isinstance(value, list | dict):
        return max((largest(item) for item in (value if isinstance(value, list) else value.values())), default=0)
    return abs(value) if isinstance(value, int | float) else 0


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b"{", b'{"a":"\xff"}', b'{"a":' + b"9" * 400 + b"}", b'{"a":1e300}', b'{"a":9007199254740993}',
        b'{"\\"":9007199254740993}', b'{"2e5":[-9007199254740993]}',
        b'{"a":999999999999999e9}', b'{"a":-9.9E+99}', b'{"a":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}",
        b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1),
        # The brackets outside of strings are nested too deeply. The brackets in strings must not hide this.
        b'{"a":' + b"[" * 200 + b'"}"' + b"]" * 200 + b"}",
        b'{"a":' + b'["]",' * 200 + b"1" + b',"["]' * 200 + b"}",
        b'{"a":' + b'["\\"]",' * 200 + b"1" + b',"[\\\\"]' * 200 + b"}",
    ],
    ids=lambda content: repr(content[:20]),
)  # fmt: skip
def test_what_is_out_of_bounds(content: bytes) -> None:
    with pytest.raises(DocumentError):
        decode_object(content)


def test_an_error_names_the_key_and_what_is_wrong() -> None:
    cases = {b'{"attrs":{},"members":5}': ("schema", "members"), b"[]": ("schema", ""), b"{": ("syntax", "")}
    for content, (kind, key) in cases.items():
        with pytest.raises(DocumentError) as caught:
            decode_json(content, NodeTypeEntry)
        assert (caught.value.kind, caught.value.key) == (kind, key)
        assert " - at " not in caught.value.problem


def test_numbers_and_depth_within_the_bounds() -> None:
    numbers = b'{"a":[0.16666666666666666,131.97598547358092,-9007199254740992,1e15,"12345678901234567890"]}'
    assert len(decode_object(numbers)["a"]) == 5
    depth = MAX_DEPTH - 1
    assert decode_object(b'{"a":' + b"[" * depth + b"]" * depth + b"}")
    assert decode_object(b'{"a":"' + b"[" * 200 + b'","b":[' + b"[]," * 200 + b"1]}")
    assert decode_value(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)


@pytest.mark.parametrize("content", [b"", b"1e300", b"\xff", b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1)])
def test_a_value_that_is_out_of_bounds(content: bytes) -> None:
    with pytest.raises(DocumentError):
        decode_value(content)
