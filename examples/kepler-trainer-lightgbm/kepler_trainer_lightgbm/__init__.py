"""LightGBM's gradient boosted trees as a trainer of Kepler Core."""

from __future__ import annotations

from typing import Any

from kepler_core.contracts import FitTask, Regressor, Trainer


class LightGBMRegressorTrainer(Trainer):
    """LightGBM's gradient boosted trees, on one thread.

    The trainer's models are stored as ONNX. To serve them, a server needs neither LightGBM nor this distribution.
    """

    def __init__(
        self,
        n_estimators: int = 100,
        learning_rate: float = 0.1,
        num_leaves: int = 15,
        min_child_samples: int = 5,
    ) -> None:
        if num_leaves < 2:
            raise ValueError(f"num_leaves must be at least 2, not {num_leaves}")
        self.parameters: dict[str, Any] = {
            "n_estimators": n_estimators,
            "learning_rate": learning_rate,
            "num_leaves": num_leaves,
            "min_child_samples": min_child_samples,
        }

    def regressor(self, task: FitTask) -> Regressor:
        # Importing LightGBM takes a second. The import is here, because `plugins info` does not need LightGBM.
        from lightgbm import LGBMRegressor

        return LGBMRegressor(  # type: ignore[no-any-return]
            random_state=task.seed, n_jobs=1, deterministic=True, force_row_wise=True, verbose=-1, **self.parameters
        )
