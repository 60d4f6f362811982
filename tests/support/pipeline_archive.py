"""The files of a small pipeline, for tests of archives."""

from __future__ import annotations

from kepler_core.store.layout import zip_bytes

MODEL = "rapl-sysfs/AbsPower/BPFOnly/SGDRegressorTrainer_0.zip"
PIPELINE = {
    "metadata.json": b'{"name":"own"}',
    MODEL: zip_bytes({"metadata.json": b"{}"}),
    "node_type_index.json": b"{}",
}
