"""Tests of atomic writing: at any time, a file has either its whole old content or its whole new content."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from kepler_core.atomic_files import make_folders, whole_file, whole_folder, write_tree


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


RECORDER = """
import os, sys
from pathlib import Path

events = []

def recorded(name, path_of):
    original = getattr(os, name)
    def call(*arguments, **options):
        result = original(*arguments, **options)
        folder, name_in_folder = os.path.split(path_of(*arguments))
        # Only the folder is resolved. If the entry itself is a link, its own name counts, not its target.
        events.append((name, os.path.join(os.path.realpath(folder), name_in_folder)))
        return result
    setattr(os, name, call)

recorded("fsync", lambda descriptor: os.readlink(f"/proc/self/fd/{descriptor}"))
recorded("mkdir", lambda path, *_: path)
recorded("rename", lambda source, target: target)
recorded("replace", lambda source, target: target)

def check():
    entries = 0
    for index, (name, path) in enumerate(events):
        parent = os.path.dirname(path)
        if name == "fsync" or ".staging" in Path(path).parts[-2:]:
            continue  # files in the staging folders need not survive a power failure
        entries += 1
        assert ("fsync", parent) in events[index:], f"{name} {path}: {parent} is not flushed afterwards"
    return entries
"""
ACTIONS = {
    "publish": """
        from kepler_core.store.local import LocalStore
        LocalStore("new/store").publish("p", {"metadata.json": b"{}", "a/b/c.json": b"{}"})
    """,
    "publish again": """
        from kepler_core.store.local import LocalStore
        store = LocalStore("store")
        store.publish("p", {"metadata.json": b"{}"})
        events.clear()
        store.publish("p", {"metadata.json": b"{}", "a/b/c.json": b"{}"})
    """,
    "decision": """
        from kepler_core.store.local import LocalStore
        LocalStore("new/store").record_decision("p", {"decision": "kept aside"})
    """,
    "state of the offline trainer": """
        from kepler_servers.offline_trainer.settings import StateFolder
        StateFolder("new/state").create()
    """,
    "power shifts": """
        from kepler_servers.online_trainer.power_shift import ShiftLog
        ShiftLog(Path("laws.json").absolute()).add([])
    """,
}


@pytest.mark.parametrize("action", ACTIONS)
def test_the_entry_of_each_new_folder_and_file_is_flushed(tmp_path: Path, action: str) -> None:
    """After each `mkdir` and `rename`, `fsync` is called for the folder that contains the new entry."""
    script = RECORDER + textwrap.dedent(ACTIONS[action]) + "print(check())\n"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0


def test_new_folders_and_their_permissions(tmp_path: Path) -> None:
    make_folders(tmp_path / "a" / "b", 0o700)
    make_folders(tmp_path / "a" / "b", 0o755)
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "a").stat().st_mode & 0o077 == 0o077 & ~_umask()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for wrong in ("file", "file/x", "link"):
        with pytest.raises(OSError, match=r"File exists|Not a directory"):
            make_folders(tmp_path / wrong)


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    with whole_folder(target, ".a") as folder:
        write_tree(folder, {"one": b"1", "below/two": b"2"})
        assert not target.exists()
    with whole_folder(target, ".a", replace=True) as folder:
        write_tree(folder, {"three": b"3"})
        assert (target / "below" / "two").read_bytes() == b"2"
    assert [path.name for path in target.iterdir()] == ["three"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    write_tree(tmp_path, {"folder/old": b"1"})

    def fail(files: dict[str, bytes], **arguments: bool) -> None:
        with whole_folder(target, ".a", **arguments) as folder:
            write_tree(folder, files)

    with pytest.raises(FileExistsError):
        fail({"a": b"", "a/b": b""}, replace=True)
    with pytest.raises(ValueError, match="leads outside of the folder"):
        fail({"../outside": b""}, replace=True)
    with pytest.raises(OSError):
        fail({"new": b""})
    assert [path.name for path in target.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [target]
