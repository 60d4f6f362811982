"""Write data sets as tables."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import pandas as pd

from kepler_core.atomic_files import check_output, whole_file
from kepler_core.dataset import Dataset, power_column
from kepler_core.errors import UsageError, missing_extra
from kepler_core.tables.columns import (
    CONTAINER,
    CONTAINER_NAME,
    background_power_column,
    dynamic_power_column,
)
from kepler_core.tables.table import check_suffix

STANDARD_OUTPUT = "-"


def check_table_output(output: str) -> None:
    """Raise an error if a data set cannot be written to a file of this name, before the data set is calculated.

    Raises `UsageError` for a wrong name, a missing folder or an existing folder of this name, and
    `MissingExtraError` for Parquet without pyarrow.
    """
    if output == STANDARD_OUTPUT:
        return
    if check_suffix(output) == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ModuleNotFoundError as error:
            raise missing_extra(error, f"{output} (Parquet)") or error from error
    check_output(output)


def write_dataset(dataset: Dataset, output: str, container_names: Mapping[str, str]) -> None:
    """Write a data set to a file, or as CSV to standard output if `output` is "-".

    The suffix of `output` chooses CSV or Parquet. CSV has as many digits as are needed to read back the same number.
    `container_names` maps ids of containers to readable names. An existing file is replaced only when the new file
    is complete. Raises `UsageError` if the file cannot be written.
    """
    frame = table_of(dataset, container_names)
    if output == STANDARD_OUTPUT or check_suffix(output) == ".csv":
        write_csv(frame, output, index=False)
        return
    with _opened(output) as file:
        frame.to_parquet(file, engine="pyarrow", compression="zstd", index=False)


def write_csv(frame: pd.DataFrame, output: str, *, index: bool) -> None:
    """Write a frame to a CSV file, or to standard output for "-".

    An existing file is replaced when the new one is complete. Raises `UsageError` if the file cannot be written.
    """
    if output == STANDARD_OUTPUT:
        frame.to_csv(sys.stdout, index=index)
        return
    with _opened(output) as file:
        frame.to_csv(file, index=index)


def table_of(dataset: Dataset, container_names: Mapping[str, str]) -> pd.DataFrame:
    """Return a data set as a frame with the columns of a table: key columns, features, power and background power."""
    frame = dataset.frame.reset_index()
    if CONTAINER in frame:
        names = [container_names.get(container, container) for container in frame[CONTAINER]]
        frame.insert(list(frame.columns).index(CONTAINER) + 1, CONTAINER_NAME, names)
    if dataset.output_type == "DynPower":
        frame = frame.rename(columns={power_column(c): dynamic_power_column(c) for c in dataset.components})
        if dataset.background is not None:
            for component in dataset.components:
                watts = dataset.background[power_column(component)].to_numpy()
                frame[background_power_column(component)] = watts[dataset.sample]
    return frame


@contextlib.contextmanager
def _opened(output: str) -> Iterator[BinaryIO]:
    """Open a file that replaces `output` when the block ends. A device or a pipe is not replaced, but written to."""
    path = Path(output)
    is_special = path.exists() and not path.is_file()
    try:
        with path.open("wb") if is_special else whole_file(path.resolve()) as file:
            yield file
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UsageError(f"cannot write {output}: {error.strerror or error}") from error
