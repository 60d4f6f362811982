"""Small simulated data for checks and fixtures. The same arguments give the same data."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from kepler_core.arrays import FloatArray
from kepler_core.contracts import FitTask, IsolationContext
from kepler_core.recording import Observations, Recording, observe, read_recording
from kepler_core.simulate import Simulation, recording
from kepler_core.vocabulary import COUNTER_FEATURES, OutputType, main_feature

if TYPE_CHECKING:
    from kepler_core.dataset import Dataset
    from kepler_core.models.power_model import PowerModel


FEATURES = COUNTER_FEATURES
SOURCE = "rapl-sysfs"


def small_recording(**simulation: Any) -> Recording:
    """Return a recording of a simulated machine: 6 containers, 80 timestamps, 3 s apart.

    Keyword arguments are passed to `kepler_core.simulate.Simulation`.
    """
    parameters = Simulation(**{"containers": 6, "timestamps": 80, **simulation})
    return read_recording(recording(parameters), name=f"simulation-{parameters.seed}")


@lru_cache(maxsize=8)
def _observations(timestamps: int, nodes: int, seed: int) -> Observations:
    return observe([small_recording(timestamps=timestamps, nodes=nodes, seed=seed)])


def small_observations(timestamps: int = 80, nodes: int = 2, seed: int = 0) -> Observations:
    """Return the observations of a small simulated recording."""
    return _observations(timestamps, nodes, seed)


def small_dataset(*, by_container: bool = False, observations: Observations | None = None) -> Dataset:
    """Return an AbsPower data set of CounterOnly features and RAPL power, by node or by container."""
    from kepler_core.frames import container_dataset, node_dataset

    if observations is None:
        observations = small_observations()
    power = {component: observations.power[SOURCE, component] for component in observations.sources[SOURCE]}
    node_features = observations.node_features
    if by_container:
        container_features = observations.container_features
        return container_dataset(observations, container_features, node_features, power, FEATURES, SOURCE)
    return node_dataset(observations, node_features, power, FEATURES, SOURCE)


def small_context() -> IsolationContext:
    """Return a context with which an isolator can isolate `small_dataset`.

    The context has observations, observations of an idle machine and an AbsPower model. It has no profile of
    the node type, because many users have none.
    """
    return IsolationContext(small_observations(), idle=_idle_observations(), abs_model=_abs_model)


@lru_cache(maxsize=1)
def _idle_observations() -> Observations:
    """Return observations of an idle machine with one container, which also runs in `small_observations`."""
    content = recording(Simulation(containers=1, timestamps=40, nodes=2, churn=0.0, seed=1))
    return observe([read_recording(content, name="idle")])


def _abs_model(dataset: Dataset) -> PowerModel:
    """Return a linear AbsPower model of the components of a data set, fitted on `small_dataset`."""
    from sklearn.linear_model import LinearRegression

    from kepler_core.models.export import FittedComponent, export
    from kepler_core.models.loading import load_model
    from kepler_core.models.power_model import scaled

    by_node = small_dataset()
    scale = np.maximum(by_node.X.max(axis=0), 1.0)
    X = scaled(by_node.X, scale).astype(np.float64)
    fitted = {}
    for component in dataset.components:
        watts = by_node.y(component)
        fitted[component] = FittedComponent(LinearRegression(positive=True).fit(X, watts), None, watts)
    return load_model(export(by_node.features, scale, by_node.X, fitted, {"model_name": "linear_0"}))


def fit_task(
    features: tuple[str, ...] = FEATURES,
    component: str = "package",
    output_type: OutputType = "AbsPower",
    seed: int = 0,
    scale: tuple[float, ...] = (),
) -> FitTask:
    """Return the `FitTask` that describes one regressor to a trainer."""
    return FitTask(component, features, main_feature(features, component), output_type, seed, scale)


def load_and_power(rows: int = 150, seed: int = 0, idle: float = 40.0) -> tuple[FloatArray, FloatArray]:
    """Return scaled CounterOnly features, shape (rows, 3), in [0, 1], and power in watts, shape (rows,).

    The power is `idle` at no load and about 125 W more at full load, with normally distributed noise of 1.5 W.
    """
    rng = np.random.default_rng(seed)
    busy = rng.uniform(0, 1, rows)
    X = np.column_stack([busy**2 * rng.uniform(0.3, 1, rows), busy, busy * rng.uniform(0.8, 1, rows)])
    if rows > 1:
        X[0] = 0  # the first row stands for an idle machine
    X /= X.max(axis=0)
    return X, np.maximum(idle + 110 * X[:, 2] ** 0.8 + 15 * X[:, 0] + rng.normal(0, 1.5, rows), 0.0)
