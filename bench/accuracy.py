"""Measure the errors of models on data that was held out from their training.

The script compares these errors with the errors that the models state about themselves. It trains, selects, applies
and recalibrates models with the functions that the commands of `kepler-model` call. The data are public recordings of
Kepler's repositories, and tables with fixed splits. If the data of a measurement are absent, the script skips the
measurement and prints the reason. docs/accuracy.md explains the measurements.

    python bench/accuracy.py [--quick] [--only NAME] [--data FOLDER] [--plots FOLDER] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from accuracy_run import blocks, containers, idle, nodes, other_day, tail  # noqa: E402
from accuracy_run.figures import AbsentError, Figure, Settings, table  # noqa: E402
from accuracy_run.plots import write_plots  # noqa: E402

MEASUREMENTS = ("tail", "blocks", "other-day", "containers", "idle", "nodes")


def measurements(plots: Path | None) -> dict[str, Callable[[Settings], list[Figure]]]:
    """Return the function of each measurement, by the measurement's name.

    The function of the measurement "tail" also writes plots into the folder `plots`.
    """

    def on_tail(settings: Settings) -> list[Figure]:
        figures, result = tail.measure(settings)
        if plots is not None:
            write_plots(result, plots)
        return figures

    functions = (
        on_tail, blocks.measure, other_day.measure, containers.measure, idle.measure,
        lambda settings: nodes.measure(settings)[0],
    )  # fmt: skip
    return dict(zip(MEASUREMENTS, functions, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE.parents[1] / "shared" / "data", help="the public data")
    parser.add_argument("--quick", action="store_true", help="train few models on few rows, to test only the script")
    parser.add_argument("--only", action="append", choices=MEASUREMENTS, help="run this measurement; may be repeated")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="write the plots of docs/accuracy.md as SVG")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers as JSON")
    parser.add_argument("--jobs", type=int, help="number of fits at the same time (default: one per CPU)")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    os.environ.setdefault("KEPLER_REPORT", "false")  # no measurement needs the report of a training
    figures: list[Figure] = []
    skipped: dict[str, str] = {}
    seconds: dict[str, float] = {}
    for name, measure in measurements(arguments.plots).items():
        if arguments.only and name not in arguments.only:
            continue
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            try:
                figures += measure(Settings(arguments.data, Path(folder), arguments.quick, arguments.jobs))
            except AbsentError as error:
                skipped[name] = str(error)
        seconds[name] = round(time.perf_counter() - started, 1)
        print(f"{name}: {seconds[name]:.0f} s", file=sys.stderr)
    print(table(figures))
    for name, reason in skipped.items():
        print(f"\n{name}: skipped: {reason}")
    if arguments.json:
        result: dict[str, Any] = {
            "quick": arguments.quick,
            "figures": [attrs.asdict(figure) for figure in figures],
            "skipped": skipped,
            "seconds": seconds,
        }
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
