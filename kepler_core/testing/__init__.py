"""Checks of plugins against their contracts, for the tests of whoever writes a plugin.

    from kepler_core.testing import parametrize_with_checks

    @parametrize_with_checks("RidgeRegressorTrainer")
    def test_contract(check):
        check()

Every check has a name, and its failure says what to do. `check_trainer` and its siblings run all
checks of one contract at once and need no pytest. Installing kepler-core also gives pytest the
fixtures of `kepler_core.testing.pytest_plugin`.
"""

from kepler_core.testing.checks import Check, CheckError, check_all, checks_of, parametrize_with_checks
from kepler_core.testing.contracts import (
    check_energy_source,
    check_extractor,
    check_isolator,
    check_metric_schema,
    check_model_format,
    check_trainer,
)

__all__ = [
    "Check",
    "CheckError",
    "check_all",
    "check_energy_source",
    "check_extractor",
    "check_isolator",
    "check_metric_schema",
    "check_model_format",
    "check_trainer",
    "checks_of",
    "parametrize_with_checks",
]
