"""The command `convert`, which converts recordings between JSON and Parquet."""

from __future__ import annotations

from pathlib import Path

import click

from kepler_core.atomic_files import check_output, whole_folder
from kepler_core.cli.examples import examples
from kepler_core.cli.output import json_errors_option
from kepler_core.errors import UsageError


@click.command(
    epilog=examples(
        "convert recording.json.gz recording.parquet",
        "convert recording.parquet recording.json.gz",
    )
)
@click.argument("source", metavar="INPUT")
@click.argument("output", metavar="OUTPUT")
@click.option("--one-file", is_flag=True, help="Write a single Parquet file instead of a folder with many files.")
@json_errors_option
def convert(source: str, output: str, one_file: bool) -> None:
    """Convert a recording from JSON to Parquet, or from Parquet to JSON.

    The name of OUTPUT ends in .parquet, .json or .json.gz. A recording in Parquet is a folder, partitioned by metric
    and day, unless --one-file is given. Only samples are converted: series without samples are left out.
    """
    from kepler_core.parquet import is_parquet

    if one_file and not is_parquet(output):
        raise UsageError(f"--one-file: {output} does not end in .parquet")
    if Path(output).exists() and is_parquet(output):
        raise UsageError(f"cannot write {output}: it exists already")
    check_output(output)
    if Path(output).resolve() == Path(source).resolve():
        raise UsageError(f"cannot write {output}: it is the recording to convert")
    try:
        n_samples = _to_parquet(source, output, one_file) if is_parquet(output) else _to_json(source, output)
    except OSError as error:
        raise UsageError(f"cannot write {output}: {error.strerror or error} ({error.filename})") from error
    click.echo(f"{output}: {n_samples} samples")


def _to_json(source: str, output: str) -> int:
    from kepler_core.parquet import is_parquet
    from kepler_core.parquet.json_export import write_json

    if not output.endswith((".json", ".json.gz")):
        raise UsageError(f"{output}: the name must end in .parquet, .json or .json.gz")
    if not is_parquet(source):
        raise UsageError(f"{source}: to write JSON, the input must be Parquet (a name that ends in .parquet)")
    return write_json(source, Path(output))


def _to_parquet(source: str, output: str, one_file: bool) -> int:
    from kepler_core.parquet import RecordingWriter, is_parquet, open_parts, write_recording
    from kepler_core.parquet.writing import write_one_file
    from kepler_core.recording import read_recording
    from kepler_core.recording.parts import parts_of

    recording = open_parts(source) if is_parquet(source) else read_recording(source)
    if one_file:
        write_one_file(parts_of(recording), Path(output))
    else:
        with whole_folder(Path(output)) as folder:
            for number, part in enumerate(parts_of(recording)):
                with RecordingWriter(folder, f"converted-{recording.digest[:8]}-{number:04}") as writer:
                    write_recording(part, writer)
    return sum(recording.sample_counts.values())
