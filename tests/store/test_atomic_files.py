"""A file is the old one or the new one."""

from __future__ import annotations

from pathlib import Path

import pytest

from kepler_core.atomic_files import whole_file


def test_it_has_its_name_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"old")
    with whole_file(path, ".7") as file:
        file.write(b"ne")
        file.flush()
        assert path.read_bytes() == b"old"
        assert (tmp_path / ".a.json.7.part").read_bytes() == b"ne"
        file.write(b"w")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"old")
    with pytest.raises(TypeError), whole_file(path) as file:
        file.writelines([b"ne", "not bytes"])  # type: ignore[list-item]
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "gone" / "a.json"):
        pass
