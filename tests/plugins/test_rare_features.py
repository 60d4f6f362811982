"""Test that `SGDRegressorTrainer` gives the weight 0 to features that were constant or rare in the training data."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np

from kepler_core.contracts import FitTask
from kepler_core.plugins import registry

FEATURES = ("bpf_cpu_time_ms", "bpf_page_cache_hit", "bpf_net_tx_irq")


def test_the_linear_trainer_for_kepler_gives_no_weight_to_uninformative_features() -> None:
    """Constant and rare features get the weight 0. Other features get the same weights as in a fit without them."""
    X = np.random.default_rng(0).uniform(0, 1, (200, 3))
    X[:, 1] = 1.0
    watts = 40 + 100 * X[:, 0] + 5 * X[:, 2]
    trainer = registry.trainers.create("SGDRegressorTrainer")
    for output_type in ("AbsPower", "DynPower"):
        task = FitTask("package", FEATURES, FEATURES[0], output_type, 0, (30_000.0, 7.0, 0.7))
        assert task.rare_columns == (2,)
        fitted: Any = trainer.regressor(task).fit(X, watts)
        alone: Any = trainer.regressor(attrs.evolve(task, features=FEATURES[:1], scale=())).fit(X[:, :1], watts)
        assert fitted.coef_.tolist() == [alone.coef_[0], 0.0, 0.0]
        assert fitted.coef_[0] > 0
        nothing: Any = trainer.regressor(task).fit(np.ones((20, 3)), np.full(20, 9.0))
        np.testing.assert_allclose(nothing.predict(np.ones((1, 3))), 9.0 if output_type == "AbsPower" else 0.0)
