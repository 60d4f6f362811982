"""Compare models for a machine whose node type was not trained, on simulated node types with different laws.

Each fleet has node types with random descriptions and random power laws. The laws follow the year, the vendor and the
size of the machines, but a part of each law is random and not in the description. The benchmark leaves out one type
after the other (leave-one-type-out), and predicts it in these ways:

- nearest: the model of the most similar trained type, as selection does today.
- per core: the curve (watts per core over load) of the most similar type, times the cores of the machine.
- curves: one model across types. A ridge regression predicts the curve of a type from its description.
- trees: one model across types: `MachinePowerTrainer`, with the number of cores as reference.

It also predicts new types that were in no part of the fleet. The column "chosen" has the error if the choice between
`nearest` and `curves` follows their leave-one-type-out errors; "by 1 SE" is the error if `curves` must be better by one
standard error. "right" is how often the chosen method was the better one on the new types. "in interval" is the part of
the true power of new types that is in the interval of the chosen method, and the usual half-width of this interval.

    python bench/node_types.py [--types 5 8 12 20] [--fleets 60] [--spread 0.15] [--trees]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import attrs
import numpy as np

from kepler_core.arrays import FloatArray
from kepler_profiler.similarity import SpecTable

SAMPLES = 60
"""Samples of each node."""
NODES = 3
"""Nodes of each type."""
NODE_SPREAD, NOISE = 0.02, 0.015
GRID = np.linspace(0, 1, 6)
"""Loads at which a curve is known."""
PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)
NEW_TYPES = 10


@attrs.frozen(eq=False)
class TypeData:
    """A simulated node type: its description, and rows of its nodes."""

    spec: dict[str, str | int]
    year: int
    load: FloatArray
    features: FloatArray
    """CPU time, cycles, instructions and cache misses per second, shape (rows, 4)."""
    watts: FloatArray

    @property
    def cores(self) -> int:
        return int(self.spec["cores"])

    @property
    def terms(self) -> FloatArray:
        """The terms of the description, shape (terms,)."""
        threads, chips = self.cores, int(self.spec["chips"])
        return np.array([
            np.log(threads / 32), np.log(chips), np.log(int(self.spec["memory"]) / threads / 4), (self.year - 2018) / 3,
            np.log(int(self.spec["frequency"]) / 3000), float(str(self.spec["processor"]).startswith("amd")),
        ])  # fmt: skip


def simulated_type(rng: np.random.Generator, spread: float) -> TypeData:
    """Return a node type with a law of its own. `spread` is the part of the law that the description does not tell."""
    year = int(rng.integers(2013, 2025))
    amd = bool(rng.random() < 0.35 and year >= 2017)
    chips = int(rng.choice([1, 2, 2]))
    per_chip = int(rng.choice([8, 12, 16, 24, 32]) * (1 if year < 2018 else 2) * (2 if amd else 1))
    threads, frequency = chips * per_chip, int(rng.choice([2600, 3000, 3400, 3800]))
    memory = int(threads * rng.choice([2, 4, 8]))
    generation = (year - 2013) // 2
    name = f"amd_epyc_7{rng.integers(2, 8)}{rng.integers(1, 9)}{generation}" if amd else (
        f"intel_xeon_gold_{5 + generation % 2}{1 + generation // 2}{rng.integers(10, 60)}"
    )  # fmt: skip

    def varied() -> float:
        return float(np.exp(spread * rng.standard_normal()))

    progress = np.exp(-0.08 * (year - 2013))
    idle = (35 + chips * 22) * varied() + 0.06 * memory + 0.5 * threads * progress * varied()
    full = threads * 4.6 * progress * (frequency / 3000) ** 1.5 * (0.85 if amd else 1.0) * varied()
    exponent, misses_watts = rng.uniform(0.65, 1.05), 0.03 * full
    load = np.concatenate(
        [np.repeat(rng.uniform(0, 1, SAMPLES // 6), 6) * (rng.random(SAMPLES) > 0.1) for _ in range(NODES)]
    )
    factor = np.repeat(1 + NODE_SPREAD * rng.standard_normal(NODES), SAMPLES)
    mix = np.repeat(rng.uniform(0, 1, NODES * SAMPLES // 6), 6)
    cycles = load * threads * frequency * 1e6
    features = np.column_stack([load * threads * 1000, cycles, cycles * (1.5 - mix), cycles * (0.0005 + 0.003 * mix)])
    watts = (idle + full * load**exponent + misses_watts * load * mix) * factor
    watts *= 1 + NOISE * rng.standard_normal(len(load))
    spec = {"processor": name, "cores": threads, "chips": chips, "memory": memory, "frequency": frequency}
    return TypeData(spec, year, load, features, watts)


Predict = Callable[[TypeData], FloatArray]


def nearest_of(types: Sequence[TypeData]) -> Callable[[TypeData], TypeData]:
    table = SpecTable([one.spec for one in types])
    return lambda new: types[int(np.argmax(table.similarities(new.spec)))]


def nearest(types: Sequence[TypeData]) -> Predict:
    """Return the prediction of the most similar type's model. Features are cut as in every model of Kepler Core."""
    find = nearest_of(types)
    models: dict[int, FloatArray] = {}

    def predict(new: TypeData) -> FloatArray:
        near = find(new)
        scale = near.features.max(axis=0)
        if id(near) not in models:
            models[id(near)] = np.linalg.lstsq(_columns(near.features / scale), near.watts, rcond=1e-6)[0]
        return _columns(np.minimum(new.features / scale, 1.05)) @ models[id(near)]

    return predict


def _columns(X: FloatArray) -> FloatArray:
    """Return the features and their roots, with a column of ones."""
    return np.column_stack([np.ones(len(X)), X, np.sqrt(X)])


def curve(one: TypeData) -> FloatArray:
    """Return the logarithms of watts per core at the loads of `GRID`, from a fit to the rows of a type."""
    basis = np.column_stack([np.ones_like(one.load), one.load, np.sqrt(one.load)])
    weights = np.linalg.lstsq(basis, one.watts / one.cores, rcond=None)[0]
    return np.log(np.maximum(np.column_stack([np.ones_like(GRID), GRID, np.sqrt(GRID)]) @ weights, 1e-3))


def watts_of(new: TypeData, logs: FloatArray) -> FloatArray:
    return new.cores * np.interp(new.load, GRID, np.exp(logs))


def per_core(types: Sequence[TypeData]) -> Predict:
    find = nearest_of(types)
    return lambda new: watts_of(new, curve(find(new)))


def curves(types: Sequence[TypeData]) -> Predict:
    """Return the predictions of a ridge regression of the curves on the terms of the description."""
    terms = np.array([one.terms for one in types])
    targets = np.array([curve(one) for one in types])
    center, deviation, level = terms.mean(axis=0), terms.std(axis=0) + 1e-9, targets.mean(axis=0)
    X, Y = (terms - center) / deviation, targets - level
    weights = min((_ridge(X, Y, penalty) for penalty in PENALTIES), key=lambda fit: fit[1])[0]
    # A description beyond those of the training counts as the most extreme description of the training.
    low, high = X.min(axis=0), X.max(axis=0)
    return lambda new: watts_of(new, level + np.clip((new.terms - center) / deviation, low, high) @ weights)


def _ridge(X: FloatArray, Y: FloatArray, penalty: float) -> tuple[FloatArray, float]:
    """Return weights, and the mean squared error of each type if it is left out (in closed form)."""
    inverse = np.linalg.inv(X.T @ X + penalty * np.eye(X.shape[1]))
    leverage = np.minimum(np.einsum("ij,jk,ik->i", X, inverse, X) + 1 / len(X), 0.999)
    weights = inverse @ X.T @ Y
    return weights, float(np.mean(((Y - X @ weights) / (1 - leverage)[:, None]) ** 2))


def trees(types: Sequence[TypeData]) -> Predict:
    # scikit-learn is slow to import, and the other methods do not need it
    from kepler_plugins.trainers.machine_power import RatioRegressor
    from kepler_plugins.trainers.machine_trend import trend_columns

    names = [
        "machine_load",
        "machine_cores",
        "machine_memory_gib",
        "machine_chips",
        "machine_year",
        "machine_is_amd",
        "mix",
    ]

    def rows(one: TypeData) -> FloatArray:
        facts = [one.cores, int(one.spec["memory"]), int(one.spec["chips"]), one.year, one.terms[-1]]
        mix = one.features[:, 3] / np.maximum(one.features[:, 1], 1)
        return np.column_stack([one.load, np.tile(facts, (len(one.load), 1)), mix])

    regressor = RatioRegressor(
        1, (1, *[0] * 6), boosted_trees=100, extra_trees=30, trend=trend_columns(names, "machine_load")
    )
    regressor.fit(np.concatenate([rows(one) for one in types]), np.concatenate([one.watts for one in types]))
    return lambda new: regressor.predict(rows(new))


METHODS = {"nearest": nearest, "per core": per_core, "curves": curves, "trees": trees}


def error(new: TypeData, predicted: FloatArray) -> float:
    """Return the mean absolute error as a part of the mean power."""
    return float(np.mean(np.abs(predicted - new.watts)) / np.mean(new.watts))


def spread_of(new: TypeData, predicted: FloatArray) -> float:
    """Return the 90 % quantile of the relative errors of a type's rows."""
    return float(np.quantile(np.abs(new.watts - predicted) / predicted, 0.9))


def interval(spreads: Sequence[float]) -> float:
    """Return the half-width of an interval for a new type, as a part of the prediction.

    It is the upper limit of a one-sided 80 % prediction interval (t distribution) of the logarithm of the spread.
    """
    from scipy.stats import t

    logs = np.log(spreads)
    n = len(logs)
    return float(np.exp(logs.mean() + t.ppf(0.8, n - 1) * logs.std(ddof=1) * np.sqrt(1 + 1 / n)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", type=int, nargs="+", default=[5, 8, 12, 20])
    parser.add_argument("--fleets", type=int, default=60, help="Number of simulated fleets of each size.")
    parser.add_argument("--spread", type=float, default=0.15, help="Part of a law that the description does not tell.")
    parser.add_argument("--trees", action="store_true", help="Also measure the method trees, which takes minutes.")
    options = parser.parse_args()
    methods = {name: method for name, method in METHODS.items() if name != "trees" or options.trees}
    print("Errors in % of the mean power: of types that were left out / of new types")
    print(f"{'types':>5}", *(f"{name:>12}" for name in methods), "  chosen  by 1 SE  right  in interval  CPU s")
    for n in options.types:
        run(n, options.fleets, options.spread, methods)


def run(n: int, fleets: int, spread: float, methods: dict[str, Callable[[Sequence[TypeData]], Predict]]) -> None:
    """Print the errors of all methods for fleets with `n` types, and of the choice between `nearest` and `curves`."""
    left_out: dict[str, list[float]] = {name: [] for name in methods}
    new: dict[str, list[float]] = {name: [] for name in methods}
    chosen: dict[str, list[float]] = {"chosen": [], "by 1 SE": []}
    right, inside, widths = [], [], []
    started = time.process_time()
    for fleet in range(fleets):
        rng = np.random.default_rng([n, fleet])
        types = [simulated_type(rng, spread) for _ in range(n)]
        fresh = [simulated_type(rng, spread) for _ in range(NEW_TYPES)]
        errors, of_new, spreads = {}, {}, {}
        for name, method in methods.items():
            folds = [(one, method([other for other in types if other is not one])(one)) for one in types]
            errors[name] = np.array([error(one, predicted) for one, predicted in folds])
            spreads[name] = [spread_of(one, predicted) for one, predicted in folds]
            left_out[name] += errors[name].tolist()
            final = method(types)
            of_new[name] = [error(one, final(one)) for one in fresh]
            new[name] += of_new[name]
        gain = errors["nearest"] - errors["curves"]
        standard_error = gain.std(ddof=1) / np.sqrt(n)
        lower = "curves" if gain.mean() > 0 else "nearest"
        much_lower = "curves" if gain.mean() > standard_error else "nearest"
        chosen["chosen"] += of_new[lower]
        chosen["by 1 SE"] += of_new[much_lower]
        right.append(np.mean(of_new[lower]) <= min(np.mean(of_new["nearest"]), np.mean(of_new["curves"])))
        final, width = methods[lower](types), interval(spreads[lower])
        widths.append(width)
        inside += [np.mean(np.abs(one.watts - (p := final(one))) <= width * p) for one in fresh]
    print(
        f"{n:5}",
        *(f"{100 * np.mean(left_out[name]):5.1f} / {100 * np.mean(new[name]):4.1f}" for name in methods),
        *(f"{100 * np.mean(values):8.1f}" for values in chosen.values()),
        f"{100 * np.mean(right):5.0f}%  {100 * np.mean(inside):4.0f}% ±{100 * np.median(widths):3.0f}%",
        f"{time.process_time() - started:6.1f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
