"""Make requests for bench/estimator.py, with the watts that the models themselves predict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from load import KEPLER_READS

from kepler_core.models.loading import load_model
from kepler_core.models.power_model import PowerModel

PIPELINE, SOURCE = "bench", "rapl-sysfs"
"""Name of the benchmark's pipeline, and the energy source of its models."""
DISTINCT_REQUESTS = 16
"""Number of different requests for each combination of trainer, output type and number of rows."""


class CheckedRequests:
    """Requests with the same trainer, output type and number of rows, and the watts that the model predicts."""

    def __init__(
        self, store: str, trainer: str, output_type: str, rows: int, metrics: tuple[str, ...] | None = None
    ) -> None:
        (folder,) = Path(store, PIPELINE, SOURCE, output_type).glob(f"*/{trainer}_0")
        self.model: PowerModel = load_model(folder)
        assert len(self.model.components) == 4, self.model.components
        rng = np.random.default_rng(rows)
        self.dynamic = output_type == "DynPower"
        self.requests: list[bytes] = []
        self.watts: list[dict[str, Any]] = []
        scales = dict(zip(self.model.features, self.model.scale, strict=True))
        for _ in range(DISTINCT_REQUESTS):
            names = list(rng.permutation(list(metrics or self.model.features)))
            # If a request has many rows, each row is a container, which uses only a small share of its node's
            # resources.
            share = 1.0 if rows == 1 else 4.0 / rows
            values = rng.uniform(0.0, share, (rows, len(names))) * [scales.get(name, 1e4) for name in names]
            values = np.round(values, 6)
            request = {
                "metrics": names,
                "values": values.tolist(),
                "output_type": output_type,
                "source": "intel_rapl",
                "system_features": ["cpu_architecture"],
                "system_values": ["unknown"],
                "trainer_name": trainer,
                "filter": "",
            }
            self.requests.append(json.dumps(request, separators=(",", ":")).encode())
            self.watts.append(self.model.predict(values, names))

    def check(self, number: int, reply: bytes) -> None:
        """Check that Kepler can read a reply, and that the reply has the watts that the model predicts."""
        assert len(reply) <= KEPLER_READS, f"{len(reply)} bytes"
        document = json.loads(reply)
        powers, expected = document["powers"], self.watts[number]
        assert powers, document
        assert "package" in powers, document["msg"]
        for component, watts in powers.items():
            # The more rows a reply has, the fewer decimals its watts have. With very many rows, watts are whole
            # numbers.
            whole = all(isinstance(number, int) for number in watts)
            decimals = 0 if whole else max((len(repr(number).partition(".")[2]) for number in watts), default=0)
            difference = np.abs(np.array(watts) - expected[component]).max()
            # The estimator adds the rounding error of a row to the next row, and a sum in single precision depends on
            # the order of its terms. So the last decimal may differ by one from the expected value.
            unit = 10.0**-decimals
            assert difference <= unit + 1e-4, (component, difference, decimals)
            total_difference = abs(sum(watts) - expected[component].sum())
            tolerance = 0.5 * unit * len(watts)
            if decimals < 3 and self.dynamic:
                # The estimator adds the rounding error of each row to the next row. So the sum over the rows is wrong
                # by at most one unit of the last decimal. Package power is the sum of rounded parts, and each part can
                # add such an error.
                parts = 1 + len({"core", "uncore"} & powers.keys()) if component == "package" else 1
                tolerance = unit * parts
            assert total_difference <= tolerance + 1e-2, (component, total_difference, tolerance)
        left_out = set(self.model.components) - set(powers)
        for component in left_out:
            zero = not np.round(expected[component], 3).any()
            assert zero or component in document["msg"], f"{component} is missing"
