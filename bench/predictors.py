"""Compare the speed of three ways to evaluate the tree ensembles of four components.

The three ways are: ONNX Runtime; a separate predictor for each component; and a joint predictor of all components.
For long-running processes such as the estimator, the model format `onnx` makes separate and joint predictors. These
predictors store the trees in arrays, either as a look-up table (module `step_table`) or as bit masks of the leaves
that a row can reach (module `leaf_masks`).

The models are like the models of the built-in trainer GradientBoostingRegressorTrainer, with 100 trees per component,
and are fitted on random data. The benchmark uses one process and one thread. It prints the microseconds per prediction
of all components.

    python bench/predictors.py [--repeat 200] [--json]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.ensemble import GradientBoostingRegressor

from kepler_core.contracts import Predictor
from kepler_core.plugins import registry

FEATURES = (2, 5)
"""Numbers of features of the models. Models with two features become look-up tables, others become bit masks."""
COMPONENTS = 4
ROWS = (1, 100, 500)


def fitted_models(features: int) -> list[bytes]:
    """Fit a tree ensemble for each component, and return the ensembles as ONNX files."""
    random = np.random.default_rng(features)
    model_format = registry.model_formats.create("onnx")
    X = random.uniform(0.0, 1.0, (300, features)).astype(np.float32)
    graphs = []
    for component in range(COMPONENTS):
        y = 40 + 30 * np.sqrt(X[:, 0].astype(np.float64)) + (component + 1) * X.sum(axis=1)
        regressor = GradientBoostingRegressor(n_estimators=100, random_state=component)
        regressor.fit(X.astype(np.float64), y)
        graphs.append(model_format.dump(regressor, _names(features), X))
    return graphs


def measure(features: int, repeat: int) -> list[dict[str, Any]]:
    """Return the time per prediction in µs, for each way of evaluation and each number of rows."""
    model_format = registry.model_formats.create("onnx")
    graphs = fitted_models(features)
    runtime = [model_format.load(graph, _names(features)) for graph in graphs]
    resident = [model_format.load_resident(graph, _names(features)) for graph in graphs]
    joint = model_format.join(resident)
    assert joint is not None
    results = []
    for rows in ROWS:
        X = np.random.default_rng(rows).uniform(0.0, 1.0, (rows, features)).astype(np.float32)
        expected = _predict_each(runtime, X)
        assert np.array_equal(_predict_each(resident, X), expected)
        assert np.array_equal(joint.predict(X), expected)
        results.append(
            {
                "features": features,
                "rows": rows,
                "resident": type(resident[0]).__name__,
                "runtime_us": _microseconds(lambda: _predict_each(runtime, X), repeat),  # noqa: B023 - called here
                "separate_us": _microseconds(lambda: _predict_each(resident, X), repeat),  # noqa: B023
                "joint_us": _microseconds(lambda: joint.predict(X), repeat),  # noqa: B023
            }
        )
    return results


def _names(features: int) -> list[str]:
    return [f"f{number}" for number in range(features)]


def _predict_each(predictors: Sequence[Predictor], X: Any) -> Any:
    return np.array([predictor.predict(X) for predictor in predictors])


def _microseconds(call: Callable[[], object], repeat: int) -> float:
    """Return the median time of `repeat` calls, in microseconds."""
    times = []
    for _ in range(repeat):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return 1e6 * float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=200, help="number of calls; the median is reported (%(default)s)")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = [result for features in FEATURES for result in measure(features, arguments.repeat)]
    if arguments.json:
        print(json.dumps(results, indent=1))
        return
    print(f"{'features':>8} {'rows':>5} {'ONNX Runtime µs':>16} {'separate µs':>12} {'joint µs':>9}  predictor")
    for r in results:
        print(
            f"{r['features']:8} {r['rows']:5} {r['runtime_us']:16.0f} {r['separate_us']:12.0f} {r['joint_us']:9.0f}  "
            f"{r['resident']}"
        )


if __name__ == "__main__":
    main()
