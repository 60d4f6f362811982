"""Options that several commands have, and the files that they name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kepler_core.documents import DocumentError, decode_object
from kepler_core.errors import UsageError

if TYPE_CHECKING:
    from kepler_core.recording import Recording

F = TypeVar("F", bound=Callable[..., Any])


def input_option() -> Callable[[F], F]:
    """Return the option `--input FILE`, which may be given several times."""
    return click.option(
        "-i",
        "--input",
        "inputs",
        metavar="FILE",
        multiple=True,
        required=True,
        help="Prometheus range-query results (.json or .json.gz); several times for several recordings.",
    )


def store_option() -> Callable[[F], F]:
    """Return the option `--store DIR|URL`."""
    return click.option(
        "-s",
        "--store",
        metavar="DIR|URL",
        required=True,
        help="The model store: a folder, or a URL such as s3://bucket/folder.",
    )


def read_object(path: str) -> dict[str, Any]:
    """Return the JSON object in a file. Raises `UsageError` if the file cannot be read or holds something else."""

    try:
        with open(path, "rb") as file:
            return decode_object(file.read())
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from error
    except DocumentError as error:
        raise UsageError(f"{path}: not a JSON object: {error}") from error


def read_all(inputs: Sequence[str], third_party: Collection[str] = ()) -> list[Recording]:
    """Return recordings with the samples of the metrics that an installed schema or `third_party` names.

    Sends the hook `kepler_recording_loaded` for each.
    """
    from kepler_core.pipeline.observing import read_known
    from kepler_core.plugins.hooks import hooks

    recordings = []
    for name in inputs:
        recordings.append(read_known(name, third_party))
        hooks().call("kepler_recording_loaded", recording=recordings[-1])
    return recordings
