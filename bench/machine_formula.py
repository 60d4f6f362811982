"""Fit the coefficients of the machine formula to published SPECpower_ssj2008 results, and measure their errors.

The script reads the table `spec_power.csv`, writes `config/kepler_config/machines/formula.json` (and the plots of
docs/machine-formula.md), and prints the errors on the fixed splits. The same table gives the same files. The
table itself is not part of this repository.

    python bench/machine_formula.py [--data FOLDER] [--output FILE] [--plots FOLDER] [--trees] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from machine_formula_run.evaluation import all_judged, splits  # noqa: E402
from machine_formula_run.fitting import fit  # noqa: E402

from kepler_core.json_files import indented_json  # noqa: E402
from kepler_profiler.machine_tables import read_machines  # noqa: E402

OUTPUT = HERE.parent / "config" / "kepler_config" / "machines" / "formula.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE.parents[1] / "shared" / "data" / "public")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="file for the coefficients")
    parser.add_argument(
        "--plots", type=Path, metavar="FOLDER", help="write the plots of docs/machine-formula.md as SVG"
    )
    parser.add_argument("--trees", action="store_true", help="measure the models of `machines fit`, too (slow)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the errors as JSON")
    arguments = parser.parse_args()
    table = read_machines(arguments.data / "spec_power.csv")
    folds = splits(arguments.data / "splits")
    document = fit(table.machines, folds)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_bytes(indented_json(document))
    judged = all_judged(table.machines, folds)
    figures = {split: one.figures for split, one in judged.items()}
    if arguments.trees:
        from machine_formula_run.trees import tree_errors

        figures |= tree_errors(table.machines, folds)
    if arguments.plots:
        from machine_formula_run.plots import write_plots

        write_plots(judged["group5"], judged["group5, idle power known"], arguments.plots)
    classes = judged["group5"].by_class
    if arguments.json:
        content = {"figures": figures, "classes": classes}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    for split, values in figures.items():
        print(f"{split:36s}" + "  ".join(f"{name} {value:6.2f}" for name, value in values.items()))
    for name, (count, mape, coverage) in classes.items():
        print(f"{name:36s}machines {count:4d}  mape {mape:6.2f}  coverage {coverage:6.2f}")


if __name__ == "__main__":
    main()
