"""Tests of the structure of packages and tests: import cycles, length of modules, names of test files.

The contract `acyclic_siblings` of import-linter (`pyproject.toml`) compares modules and packages that are
siblings. It misses a cycle between a package and one of the package's own modules. The test below finds such cycles.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

PACKAGES = ("kepler_core", "kepler_plugins", "kepler_profiler", "kepler_servers", "kepler_config")


def circles(modules: Iterable[str], imports: Callable[[str], set[str]]) -> list[list[str]]:
    """Return the import cycles: strongly connected components of more than one module (Tarjan's algorithm)."""
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []
    components: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = lowest[module] = len(index)
        path.append(module)
        for imported in sorted(imports(module)):
            if imported not in index:
                visit(imported)
                lowest[module] = min(lowest[module], lowest[imported])
            elif imported in path:
                lowest[module] = min(lowest[module], index[imported])
        if lowest[module] == index[module]:
            start = path.index(module)
            components.append(sorted(path[start:]))
            del path[start:]

    for module in sorted(modules):
        if module not in index:
            visit(module)
    return sorted(component for component in components if len(component) > 1)


def test_circles_are_found():
    imports = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"a"}}
    assert circles(imports, imports.__getitem__) == [["b", "c"]]


def test_no_module_imports_itself_through_others():
    grimp = pytest.importorskip("grimp", reason="grimp comes with import-linter")
    # The graph includes imports inside of functions, but no imports under `if TYPE_CHECKING`.
    graph = grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True, cache_dir=None)
    assert circles(graph.modules, graph.find_modules_directly_imported_by) == []


def test_no_two_test_files_have_the_same_name():
    """pytest imports test files by their names without folders, so it cannot collect two files of the same name."""
    names = Counter(path.name for path in Path(__file__).parent.rglob("test_*.py"))
    assert [name for name, number in names.items() if number > 1] == []


def test_no_module_of_the_packages_has_more_than_400_lines():
    root = Path(__file__).parent.parent
    folders = [root / "kepler_core", *(root.glob("*/kepler_*"))]
    lines = {path: path.read_bytes().count(b"\n") for folder in folders for path in folder.rglob("*.py")}
    assert len(lines) > 100
    assert {str(path.relative_to(root)): number for path, number in lines.items() if number > 400} == {}
