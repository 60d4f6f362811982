"""Test Parquet recordings at URLs. The process that needs a recording reads it directly from the URL."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from kepler_core.errors import RecordingError
from kepler_core.parquet import RecordingWriter, open_parts, write_recording
from kepler_core.parquet.writing import write_one_file
from kepler_core.pipeline.part_sampling import observe_sample
from kepler_core.pipeline.spec import PipelineSpec
from kepler_core.recording import Recording, read_recording
from kepler_core.simulate import Simulation, recording

pytest.importorskip("pyarrow")
fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")


@pytest.fixture(scope="module")
def source() -> Recording:
    return read_recording(msgspec.json.encode(recording(Simulation(nodes=3, containers=2, timestamps=60, churn=0.0))))


def test_workers_read_a_recording_in_s3(s3: str, source: Recording, tmp_path: Path) -> None:
    """A folder and a single file in S3 give the same digest and observations as the local files."""
    folder, file = tmp_path / "r.parquet", tmp_path / "one.parquet"
    with RecordingWriter(folder, "a") as writer:
        write_recording(source, writer)
    write_one_file(iter([source]), file)
    filesystem, root = fsspec.core.url_to_fs(s3)
    filesystem.put(str(folder), f"{root}/r.parquet", recursive=True)
    filesystem.put(str(file), f"{root}/one.parquet")
    for path in (folder, file):
        local, remote = (open_parts(place, part_samples=1) for place in (path, f"{s3}/{path.name}"))
        assert (remote.digest, remote.sample_counts) == (local.digest, local.sample_counts)
        assert len(remote.parts) == 3
        observed = [observe_sample(PipelineSpec("x"), [parts], jobs=2)[0] for parts in (local, remote)]
        assert observed[0].digest == observed[1].digest
        assert observed[0].power.keys() == observed[1].power.keys()
        for key, watts in observed[0].power.items():
            assert watts.tobytes() == observed[1].power[key].tobytes()


def test_wrong_urls_are_errors_of_the_recording(s3: str) -> None:
    with pytest.raises(RecordingError, match=r"^s3://.*nothing\.parquet: No such file or directory"):
        open_parts(f"{s3}/nothing.parquet")
    with pytest.raises(RecordingError, match=r"s3://bucket/r\.parquet: a recording's URL has no user"):
        open_parts("s3://someone:secret@bucket/r.parquet")
    with pytest.raises(RecordingError, match=r"nope://bucket/r\.parquet: .*nope"):
        open_parts("nope://bucket/r.parquet")
    filesystem, root = fsspec.core.url_to_fs(s3)
    filesystem.pipe_file(f"{root}/r.parquet/metric=m/x.parquet", b"PAR1 nothing")
    with pytest.raises(RecordingError, match="no recording: the folder has no file"):
        open_parts(f"{s3}/r.parquet")
    filesystem.pipe_file(f"{root}/bad.parquet", b"PAR1 nothing")
    with pytest.raises(RecordingError, match="not a Parquet file of a recording"):
        list(open_parts(f"{s3}/bad.parquet").read())
