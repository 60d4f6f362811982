"""What clients and deployments of kepler-model-server 0.7 send to the model server, and what they expect of it."""

from __future__ import annotations

from pathlib import Path

from support.model_server import checked_weights
from support.process import wait_for
from support.server_process import serving
from support.small_pipelines import CAPTURED, SmallModel, linear, pipeline

from kepler_core.store.archive import archive_bytes
from kepler_core.store.layout import zip_bytes
from kepler_core.store.local import LocalStore

# --- zip archives of initial pipelines, with and without a folder around the pipeline ---


def test_initial_pipelines_in_zips_of_both_layouts(tmp_path: Path) -> None:
    """The names come from the folder in the archive, the manifest, the metadata, and the file."""
    source = LocalStore(tmp_path / "source")
    files = pipeline(SmallModel(weights={"package": linear(11.0)}))
    source.publish("exported", files)
    contents = {
        "a.zip": archive_bytes(source.snapshot("exported")),
        "b.zip": zip_bytes({f"folder/{name}": content for name, content in files.items()}),
        "c.zip": zip_bytes(files),
        "ec2-0.7.11.zip": zip_bytes({**files, "metadata.json": b"{}"}),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    urls = ",".join(f"file://{tmp_path / name}" for name in contents)
    store = LocalStore(tmp_path / "store")
    names = ["ec2-0.7.11", "exported", "folder", "made"]
    with serving(store.root, tmp_path / "log", environ={"INITIAL_PIPELINE_URL": urls}, ready_path="/metrics") as server:
        wait_for(lambda: server.get("/healthz").json()["pipelines"].keys() == {*names}, f"not imported: {server.log}")
        for name in names:
            weights = checked_weights(server.post({**CAPTURED, "pipeline_name": name}))
            assert weights["package"] == linear(11.0)
