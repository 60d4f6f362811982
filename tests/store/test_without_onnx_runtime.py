"""Tests of models on a machine without ONNX Runtime, which is not in the base install."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.base import RegressorMixin
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.neighbors import KNeighborsRegressor

from kepler_core.plugins import registry
from kepler_core.testing.blocked_imports import error_without

FEATURES = ["cpu_cycles", "cpu_instructions", "cache_miss"]
PREDICT = """
import json, pathlib, sys
import numpy as np
from kepler_core.plugins import registry
content = pathlib.Path(sys.argv[1]).read_bytes()
model_format = registry.model_formats.create("onnx")
model = getattr(model_format, sys.argv[3])(content, ["cpu_cycles", "cpu_instructions", "cache_miss"])
data = np.load(sys.argv[2])
predicted = model.predict(data["X"])
assert np.abs(predicted - data["y"]).max() < 1e-3, "other predictions"
"""


def written(folder: Path, regressor: RegressorMixin) -> tuple[str, str]:
    """Write a fitted regressor and its predictions to files, and return the paths of the files."""
    random = np.random.default_rng(1)
    X = random.random((200, 3)).astype(np.float32)
    regressor.fit(X, 100 * X[:, 0] + 20 * X[:, 1] ** 2)
    content = registry.model_formats.create("onnx").dump(regressor, FEATURES, X)
    (folder / "package.onnx").write_bytes(content)
    np.savez(folder / "rows.npz", X=X, y=regressor.predict(X))
    return str(folder / "package.onnx"), str(folder / "rows.npz")


@pytest.mark.parametrize("load", ["load", "load_resident"])
def test_tree_ensembles_need_no_onnx_runtime(tmp_path: Path, load: str) -> None:
    files = written(tmp_path, GradientBoostingRegressor(n_estimators=30, max_depth=3, random_state=0))
    assert error_without(["onnxruntime"], PREDICT, *files, load) == ""


@pytest.mark.parametrize("load", ["load", "load_resident"])
def test_other_models_name_the_pip_command(tmp_path: Path, load: str) -> None:
    files = written(tmp_path, KNeighborsRegressor())
    assert error_without([], PREDICT, *files, load) == ""
    error = error_without(["onnxruntime"], PREDICT, *files, load)
    assert error.endswith("this kind of model needs onnxruntime: pip install 'kepler-core[onnx]'")
