"""Checks of plugins against their contracts, for use in the tests of plugin authors.

    from kepler_core.testing import parametrize_with_checks

    @parametrize_with_checks("RidgeRegressorTrainer")
    def test_contract(check):
        check()

Every check has a name, and its error says how to correct the plugin. `check_trainer` and the other
`check_` functions run all checks of one contract without pytest. `kepler_core.testing.pytest_plugin`
defines fixtures, which pytest finds by itself if kepler-core is installed.
"""

from kepler_core.testing.checks import Check, CheckError
from kepler_core.testing.collection import check_all, checks_of, parametrize_with_checks
from kepler_core.testing.contracts import (
    check_collector,
    check_energy_source,
    check_extractor,
    check_isolator,
    check_metric_schema,
    check_model_format,
    check_output,
    check_trainer,
)

__all__ = [
    "Check",
    "CheckError",
    "check_all",
    "check_collector",
    "check_energy_source",
    "check_extractor",
    "check_isolator",
    "check_metric_schema",
    "check_model_format",
    "check_output",
    "check_trainer",
    "checks_of",
    "parametrize_with_checks",
]
