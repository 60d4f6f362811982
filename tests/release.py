"""Build a release and check it: wheel, source distribution, and a software bill of materials (SBOM). tox runs this.

    python tests/release.py FOLDER

FOLDER must be empty or missing. The program uploads nothing. It fails if the checkout has changes that are not
committed, if CHANGELOG.md has no dated section of the version, or if a check fails.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SBOM_FORMAT = "1.6"


def run(*command: str | Path) -> str:
    done = subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}:\n{done.stdout}{done.stderr}")
    return done.stdout.strip()


def version() -> str:
    found = re.search(r'^__version__ = "([^"]+)"$', (ROOT / "kepler_core" / "__init__.py").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def check_sources(release: str) -> None:
    """End the program if the checkout has uncommitted changes, or if CHANGELOG.md has no date for the version."""
    if changes := run("git", "status", "--porcelain"):
        sys.exit(f"the checkout has changes that are not committed:\n{changes}")
    headings = re.findall(
        r"^## \[(.+)\](?: - (\d{4}-\d{2}-\d{2}))?$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    if [name for name, date in headings[:2] if name == "Unreleased" or date] != ["Unreleased", release]:
        sys.exit(f"CHANGELOG.md must begin with the sections [Unreleased] and [{release}] with its date")


def build(folder: Path, release: str) -> tuple[Path, Path]:
    """Build both distributions, and check that a wheel made from the source distribution has the same files."""
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT)
    wheel, sdist = folder / f"kepler_core-{release}-py3-none-any.whl", folder / f"kepler_core-{release}.tar.gz"
    built = sorted(path.name for path in folder.iterdir())
    if built != sorted((wheel.name, sdist.name)):
        sys.exit(f"expected {wheel.name} and {sdist.name}, and not {', '.join(built)}")
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist)
    run(sys.executable, "-m", "check_wheel_contents", "--toplevel", ",".join(packages()), wheel)
    return wheel, sdist


def packages() -> list[str]:
    """Return the names of the top-level packages in the wheel."""
    return ["kepler_core", "kepler_plugins", "kepler_profiler", "kepler_servers", "kepler_config"]


def write_sbom(wheel: Path, file: Path) -> int:
    """Write the SBOM of the base install (CycloneDX, JSON), and return its number of components."""
    with tempfile.TemporaryDirectory() as name:
        venv.create(name, with_pip=False)
        python = Path(name) / "bin" / "python"
        run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-compile", wheel)
        options = ["--output-format", "JSON", "--spec-version", SBOM_FORMAT, "--output-reproducible"]
        run(sys.executable, "-m", "cyclonedx_py", "environment", *options, "--output-file", file, python)
    components = json.loads(file.read_text())["components"]
    names = {component["name"] for component in components}
    if not {"kepler-core", "numpy", "granian"} <= names or "pandas" in names:
        sys.exit(f"{file}: not the packages of the base install: {', '.join(sorted(names))}")
    return len(components)


def main() -> None:
    folder = Path(sys.argv[1])
    release = version()
    check_sources(release)
    if folder.exists() and any(folder.iterdir()):
        sys.exit(f"{folder} is not empty: run `make clean`")
    wheel, sdist = build(folder, release)
    sbom = folder / f"kepler_core-{release}.cdx.json"
    number = write_sbom(wheel, sbom)
    for path in (wheel, sdist, sbom):
        print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB")
    print(f"release {release}: all checks passed; the base install has {number} packages")
    print(f"next: git tag v{release}, and twine upload {wheel.name} {sdist.name}")


if __name__ == "__main__":
    main()
