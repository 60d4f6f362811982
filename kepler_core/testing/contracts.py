"""Functions that run all checks of one contract, without pytest: one function per contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kepler_core.contracts import (
    Collector,
    EnergySource,
    Extractor,
    IsolationContext,
    Isolator,
    MetricSchema,
    ModelFormat,
    Output,
    Plugin,
    Regressor,
    Trainer,
)
from kepler_core.errors import PluginError
from kepler_core.testing.collection import check_all, checks_of


def check_trainer(plugin: type[Trainer] | str, arguments: Mapping[str, Any] | None = None) -> None:
    """Check a trainer: fit its regressor on many kinds of data, store the model, load it again.

    Like all functions of this module, it raises one `CheckError` that lists all failures.
    """
    _check(Trainer, plugin, arguments)


def check_isolator(
    plugin: type[Isolator] | str,
    arguments: Mapping[str, Any] | None = None,
    *,
    context: IsolationContext | None = None,
) -> None:
    """Check an isolator on a small data set.

    The default `context` has observations, a recording of an idle machine and an AbsPower model. Pass another
    context for an isolator that needs more, e.g. a profile.
    """
    _check(Isolator, plugin, arguments, context=context)


def check_extractor(plugin: type[Extractor] | str, arguments: Mapping[str, Any] | None = None) -> None:
    """Check an extractor on a few observations: extract data sets with a row per node and with a row per container."""
    _check(Extractor, plugin, arguments)


def check_energy_source(plugin: type[EnergySource] | str) -> None:
    """Check the attributes of an energy source, including conflicts with the installed energy sources."""
    _check(EnergySource, plugin)


def check_metric_schema(
    plugin: type[MetricSchema] | str, *, metrics: Mapping[str, str] | None = None, scrape: str | None = None
) -> None:
    """Check a metric schema with many metric names, and with a generated recording that has metrics of these names.

    `metrics` maps the exporter's metric names to features and components of `kepler_core.vocabulary`, for
    example `{"host_power_microwatts": "platform"}`. By default, the checks use the names that the schema's method
    `spelling` returns. `scrape` is the text of the exporter's page /metrics. If it is given, the checks also find
    metrics that the schema does not mention, and zones that are added up although they overlap.
    """
    _check(MetricSchema, plugin, metrics=metrics, scrape=scrape)


def check_model_format(plugin: type[ModelFormat] | str, *, regressor: Regressor | None = None) -> None:
    """Check that a model format writes regressors and reads them back.

    `regressor` is an unfitted regressor that the format supports. The default is linear regression, or
    gradient boosting if the format does not support linear regression.
    """
    _check(ModelFormat, plugin, regressor=regressor)


def check_collector(plugin: type[Collector] | str, arguments: Mapping[str, Any] | None = None) -> None:
    """Check a collector: it measures the features that it provides, or says why this machine cannot be measured."""
    _check(Collector, plugin, arguments)


def check_output(plugin: type[Output] | str, arguments: Mapping[str, Any] | None = None) -> None:
    """Check an output: it takes readings, withdraws them and closes.

    Pass `arguments` with which the output publishes in a temporary folder, so that the check does not disturb a running
    meter.
    """
    _check(Output, plugin, arguments)


def _check(
    contract: type[Plugin], plugin: type[Any] | str, arguments: Mapping[str, Any] | None = None, **extras: Any
) -> None:
    checks = checks_of(plugin, arguments, **{key: value for key, value in extras.items() if value is not None})
    subject = checks[0].subject
    if not issubclass(subject.plugin, contract):
        raise PluginError(f"{subject.name} is no {contract.__name__}; call the check function of its own contract")
    check_all(checks)
