"""`check_trainer` and its siblings: all checks of one contract at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kepler_core.contracts import (
    EnergySource,
    Extractor,
    IsolationContext,
    Isolator,
    MetricSchema,
    ModelFormat,
    Plugin,
    Regressor,
    Trainer,
)
from kepler_core.errors import PluginError
from kepler_core.testing import energy_sources, extractors, isolators, metric_schemas, model_formats, plugins, trainers
from kepler_core.testing.checks import Check, check_all, checks_of

GIVEN: dict[type[Plugin], tuple[str, ...]] = {
    Isolator: ("context",),
    ModelFormat: ("regressor",),
    MetricSchema: ("metrics",),
}
"""What can be given for the checks of a contract."""

# whose import registers the checks
_MODULES = (plugins, trainers, isolators, extractors, energy_sources, metric_schemas, model_formats)


def check_trainer(plugin: type[Trainer] | str, arguments: Mapping[str, Any] | None = None) -> None:
    """Fits data of all kinds with it, exports and loads what it made; `CheckError` says what is wrong."""
    check_all(_checks(Trainer, plugin, arguments))


def check_isolator(
    plugin: type[Isolator] | str,
    arguments: Mapping[str, Any] | None = None,
    *,
    context: IsolationContext | None = None,
) -> None:
    """Isolates a small data set; `context` is for one that needs more than observations."""
    check_all(_checks(Isolator, plugin, arguments, **({} if context is None else {"context": context})))


def check_extractor(plugin: type[Extractor] | str, arguments: Mapping[str, Any] | None = None) -> None:
    """Makes data sets of small observations, by node and by container."""
    check_all(_checks(Extractor, plugin, arguments))


def check_energy_source(plugin: type[EnergySource] | str) -> None:
    """Looks at what the meter says of itself, and at what others say."""
    check_all(_checks(EnergySource, plugin))


def check_metric_schema(plugin: type[MetricSchema] | str, *, metrics: Mapping[str, str] | None = None) -> None:
    """Asks for metrics of all kinds, and reads a recording of known power in its spelling.

    `metrics` are names of metrics with what they mean in our vocabulary, e.g.
    `{"host_power_microwatts": "platform"}`; by default what `spelling` says.
    """
    check_all(_checks(MetricSchema, plugin, None, **({} if metrics is None else {"metrics": metrics})))


def check_model_format(plugin: type[ModelFormat] | str, *, regressor: Regressor | None = None) -> None:
    """Writes and reads regressors back; `regressor` is an unfitted one that the format can write, by
    default linear regression or gradient boosting."""
    given: dict[str, Any] = {} if regressor is None else {"regressor": regressor}
    check_all(_checks(ModelFormat, plugin, None, **given))


def _checks(
    contract: type[Plugin], plugin: type[Any] | str, arguments: Mapping[str, Any] | None = None, **given: Any
) -> list[Check]:
    found = checks_of(plugin, arguments, **given)
    if not issubclass(found[0].subject.plugin, contract):
        raise PluginError(f"{found[0].subject.name} is no {contract.__name__}; there is a function for each contract")
    return found


assert all(_MODULES)
