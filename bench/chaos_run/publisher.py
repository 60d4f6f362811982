"""A process that publishes versions of a pipeline until it is killed, and reports each version.

    python -m chaos_run.publisher STORE FIRST_SERIAL

Every version has a serial number, which is also in the weights of its models. The process prints "attempt SERIAL"
before it publishes a version, and "published SERIAL VERSION" or "failed SERIAL REASON" afterwards.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import time
from collections.abc import Mapping, Sequence

from support.linear_models import LinearModel, files_of
from support.small_pipelines import BPF, linear

from kepler_core.errors import KeplerError
from kepler_core.store.local import LocalStore

PIPELINE = "steady"
WEIGHTS: Mapping[str, Mapping[str, float]] = {
    "package": {"bpf_cpu_time_ms": 0.01, "bpf_page_cache_hit": 0.001},
    "dram": {"bpf_page_cache_hit": 0.002},
}
"""Weights of each component, by feature, in watts per unit of the feature. All versions have these weights."""
MAE = 0.5
PAUSE_SECONDS = (0.2, 0.8)
TOLERANCE = 1e-4
"""Largest relative difference that is allowed between an answer's watts and the expected watts."""


def biases(serial: int) -> dict[str, float]:
    """Return the bias of each component in a version. The biases depend on `serial`, so they identify the version."""
    return {"package": float(serial), "dram": 2.0 * serial + 1}


class PublishedModel(LinearModel):
    """A linear model that also has the file `weight.json`, from which Kepler can compute watts."""

    def stored(self) -> tuple[dict[str, object], dict[str, bytes]]:
        metadata, files = super().stored()
        kepler = {
            component: linear(bias, {name: 1000.0 * weight for name, weight in weights.items()})
            for component, (bias, weights) in self.watts.items()
        }
        files["weight.json"] = json.dumps({"model_name": self.name, "machine_spec": {}, **kepler}).encode()
        return metadata, files


def model(serial: int) -> PublishedModel:
    """Return the model in the version with this serial number."""
    watts = {component: (bias, WEIGHTS[component]) for component, bias in biases(serial).items()}
    return PublishedModel(watts=watts, mae=MAE)


def serial_of(powers: Mapping[str, Sequence[float]], rows: Sequence[Sequence[float]]) -> int | None:
    """Return the serial number of the version whose model predicts `powers` for `rows`; None if no version does."""
    if set(powers) != set(WEIGHTS) or any(len(values) != len(rows) for values in powers.values()):
        return None
    dynamic = sum(weight * rows[0][BPF.index(name)] for name, weight in WEIGHTS["package"].items())
    serial = round(powers["package"][0] - dynamic)
    expected = model(serial).expected(BPF, rows)
    right = all(
        abs(value - wanted) <= TOLERANCE * max(1.0, abs(wanted))
        for component, values in powers.items()
        for value, wanted in zip(values, expected[component], strict=True)
    )
    return serial if right else None


def serial_of_weights(weights: Mapping[str, object]) -> int | None:
    """Return the serial number of the version whose model has these weights; None if no version has such a model."""
    try:
        found = {component: weights[component]["All_Weights"] for component in WEIGHTS}  # type: ignore[index]
        serial: int = round(found["package"]["Bias_Weight"])
        for component, bias in biases(serial).items():
            variables = found[component]["Numerical_Variables"]
            slopes = {name: variable["weight"] / variable["scale"] for name, variable in variables.items()}
            slopes = {name: slope for name, slope in slopes.items() if slope}
            wanted = WEIGHTS[component]
            if slopes.keys() != wanted.keys() or abs(found[component]["Bias_Weight"] - bias) > TOLERANCE:
                return None
            if any(abs(slopes[name] - wanted[name]) > TOLERANCE * wanted[name] for name in wanted):
                return None
    except (KeyError, TypeError, ZeroDivisionError):
        return None
    return serial


def main() -> None:
    """Publish one version after another until the process is killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("serial", type=int)
    arguments = parser.parse_args()
    store = LocalStore(arguments.store)
    pauses = random.Random(arguments.serial)
    for serial in itertools.count(arguments.serial):
        files = files_of(model(serial))
        print(f"attempt {serial}", flush=True)
        try:
            version = store.publish(PIPELINE, files)
        except KeplerError as error:
            print(f"failed {serial} {error}", flush=True)
        else:
            print(f"published {serial} {version}", flush=True)
        time.sleep(pauses.uniform(*PAUSE_SECONDS))


if __name__ == "__main__":
    main()
