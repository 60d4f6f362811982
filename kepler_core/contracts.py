"""The contracts that a plugin fulfils: all of them, in one place.

A plugin is a class (below) that is named by an entry point of your distribution (setup.cfg here;
examples/kepler-trainer-ridge has the same in pyproject.toml):

    [options.entry_points]
    kepler.trainers =
        MyTrainer = my_package.my_module:MyTrainer
    kepler.trainers.aliases =
        mine = my_package.my_module:MyTrainer
    kepler.plugin_api =
        1.0 = my_package

`pip install` it and it is there: `kepler-model plugins list` shows it, a pipeline names it. The
left side is the name that users write; an alias is the same class under a second name in the group
with `.aliases` at its end (so that listing names and aliases imports nothing). `kepler.plugin_api` holds
the versions of these contracts that the distribution was written for. The keyword
arguments of your `__init__` are the arguments that users may write in YAML; their annotations are
checked (`**kwargs` cannot be set), their defaults are shown by `kepler-model plugins info MyTrainer`.

What you never do: scale features, fit per component, split for validation, export, write metadata.
That is the framework's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import attrs

from kepler_core.arrays import FloatArray, SingleArray
from kepler_core.models.predictors import JointPredictor as JointPredictor
from kepler_core.models.predictors import Predictor as Predictor
from kepler_core.vocabulary import OutputType

if TYPE_CHECKING:
    from kepler_core.dataset import Dataset
    from kepler_core.models.power_model import PowerModel
    from kepler_core.recording.observations import Observations

PLUGIN_API = (1, 0)
"""Version of these contracts (major, minor), semantic: a minor step only adds, a major step may break.

A distribution declares what it was written for in the entry-point group `kepler.plugin_api`: the
name "1.2" means from 1.2 up to, but without, 2.0. Others are refused without being imported."""


class Plugin:
    """What all plugins have in common."""

    extra: ClassVar[str | None] = None
    """The extra of kepler-core that the plugin needs, if any, e.g. "xgboost"."""


# --- kepler.trainers ------------------------------------------------------------------------------


class Regressor(Protocol):
    """The part of scikit-learn's regressor contract that is used.

    One that no model format knows may hold an equal one that is known as `portable_` after `fit`:
    that is written in its place (and compared with it).
    """

    def fit(self, X: FloatArray, y: FloatArray) -> Any: ...

    def predict(self, X: FloatArray) -> FloatArray: ...


@attrs.frozen
class FitTask:
    """What a trainer is told about the one component that it is to make a regressor for."""

    component: str
    """"package", "core", "uncore", "dram" or "platform"."""
    features: tuple[str, ...]
    """The columns of X, in order."""
    main_feature: str
    """The feature to use by a regressor that takes only one (`kepler_core.vocabulary`)."""
    output_type: OutputType
    seed: int
    """For every random choice: the same seed and data must give the same fit."""

    @property
    def main_column(self) -> int:
        """The column of X that holds the main feature."""
        return self.features.index(self.main_feature)


class Trainer(Plugin, ABC):
    """Makes the regressor of one component: features in, watts out.

    X and y are shared: they may not be changed in place.
    `regressor` returns an unfitted scikit-learn regressor (clonable, `fit(X, y)`, `predict(X)`).
    X has shape (samples, features), each column divided by its largest absolute value so that 0
    stays 0 and usual values are in [0, 1]; y has shape (samples,), in watts, ≥ 0. It is fitted
    several times: once per validation fold, once on all data. A component that is constant never
    reaches a trainer. What it predicts below 0 W is cut at 0 W.
    """

    model_format: ClassVar[str | None] = None
    """Model format to write with, another distribution's as "distribution:name"; None: "weights" if
    the regressor has a flat `coef_` and one `intercept_`, else "onnx"."""

    @abstractmethod
    def regressor(self, task: FitTask) -> Regressor: ...


# --- kepler.isolators -----------------------------------------------------------------------------


@attrs.frozen(eq=False)
class IsolationContext:
    """What an isolator may use besides the data set."""

    observations: Observations
    """All that the data set was made of."""
    idle: Observations | None = None
    """A recording of the machine while it did nothing, where the user has one."""
    background: frozenset[str] = frozenset()
    """Names of the containers that ran while it did nothing (`kepler_core.containers`)."""
    profile: Mapping[str, Any] | None = None
    """The profile of the machine's node type (`profiles/<node type>.json`), where there is one."""
    machine_spec: Mapping[str, Any] = attrs.field(factory=dict)
    """What is known of the machine."""
    abs_model: Callable[[Dataset], PowerModel] | None = None
    """The AbsPower model of the data set's source and features with the lowest validation error;
    `PluginError` where there is none. None: not in this place."""
    applying: bool = False
    """A trained model is applied: what was taken away for its training is to be taken away again."""


class Isolator(Plugin, ABC):
    """Takes idle and background power away: an AbsPower data set in, a DynPower data set out.

    Works on a `Dataset` by timestamp × container, where the power of all containers of a node at a
    time adds up to the node's power (`Dataset.node_power`). `Dataset.isolated` takes power away so
    that dynamic power is never negative and dynamic + taken away = measured.
    """

    @abstractmethod
    def isolate(self, dataset: Dataset, context: IsolationContext) -> Dataset:
        """The data set with dynamic power only, what was taken away as its `background`."""

    def reconstruct(self, dataset: Dataset) -> Dataset:
        """The inverse: dynamic power (measured or estimated) and `background` put together again."""
        return dataset.reconstructed()


# --- kepler.extractors ----------------------------------------------------------------------------


class Extractor(Plugin, ABC):
    """Makes data sets from observations: which rows, how smoothed, features joined with power."""

    memory: int = 1
    """Timestamps that go into one row: validation keeps at least so many between what is trained on
    and what is tested on."""

    @abstractmethod
    def extract(
        self,
        observations: Observations,
        features: Sequence[str],
        source: str,
        components: Sequence[str],
        *,
        by_container: bool,
    ) -> Dataset:
        """One row per node and timestamp or, `by_container`, per node, timestamp and container.

        Power columns are watts: the node's, or, `by_container`, each container's share of it in
        proportion to the component's main feature. Rows with an unknown feature or power are left
        out.
        """


# --- kepler.energy_sources ------------------------------------------------------------------------


class EnergySource(Plugin, ABC):
    """A power meter that a recording may hold energy counters of."""

    components: ClassVar[tuple[str, ...]]
    """What it measures, e.g. ("package", "core", "uncore", "dram") or ("platform",)."""

    sent_as: ClassVar[str]
    """The name under which Kepler asks for models of this source ("intel_rapl", "acpi")."""

    reads: ClassVar[tuple[str, ...]]
    """Values of a recording's source label that are this meter, e.g. ("rapl-sysfs", "rapl")."""


# --- kepler.metric_schemas ------------------------------------------------------------------------


@attrs.frozen
class MetricMapping:
    """What one metric of an exporter means in our vocabulary."""

    kind: Literal["feature", "energy", "power"]
    """"feature" -> `name` is a feature; "energy" (joules, counter) or "power" (watts, gauge) ->
    `name` is a component."""
    name: str
    level: Literal["container", "process", "vm", "node"]
    unit_labels: tuple[str, ...] = ()
    """Labels that tell apart what is to be added up: a container's id, a package and mode. Two
    series of one node that agree in them at the same time are two reports of the same thing."""
    counter: bool = attrs.field()
    """Used as a rate per second; else the value as it is (a gauge). Power is a gauge."""
    scale: float = 1.0
    """Times this in our unit."""
    aggregate: Literal["sum", "mean"] = "sum"
    """How several units of a node become the node's value."""
    source: str | None = None
    """Energy source where the series has no source label."""
    note: str = ""
    """Something the user should know, e.g. that the name is an old one."""

    @counter.default
    def _is_counter(self) -> bool:
        return self.kind != "power"


class MetricSchema(Plugin, ABC):
    """How one exporter, in one range of versions, spells things."""

    node_label: ClassVar[str] = "instance"
    """Label that tells nodes apart."""
    node_alias_labels: ClassVar[tuple[str, ...]] = ()
    """Labels that name the machine itself: two values of `node_label` with the same alias are two
    exporters on one machine."""
    container_labels: ClassVar[tuple[str, ...]] = ("container_id",)
    """Labels that name a container: its id, then what stands in where that is missing."""
    source_label: ClassVar[str] = "source"
    """Label of an energy metric that names its meter."""
    mode_label: ClassVar[str | None] = None
    """Label of an energy metric that tells "idle" from "dynamic" energy, which add up."""

    @abstractmethod
    def meaning(self, metric: str) -> MetricMapping | None:
        """What the metric of this name means; None for one that is not ours."""

    def spelling(self, level: str, name: str) -> str:
        """The metric name that a user should look for, for messages about what is missing."""
        return name


# --- kepler.model_formats -------------------------------------------------------------------------


class ModelFormat(Plugin, ABC):
    """Writes a fitted regressor to bytes that need no pickle, and reads them back without running
    anything from them. Loading and predicting must not import scikit-learn, pandas or the library
    that fitted."""

    suffix: ClassVar[str]
    """Of the file, e.g. ".onnx"."""

    @abstractmethod
    def supports(self, regressor: Regressor) -> bool:
        """Whether `dump` can write this kind of fitted regressor."""

    @abstractmethod
    def dump(self, regressor: Regressor, features: Sequence[str], X: SingleArray) -> bytes:
        """The fitted regressor as bytes; X are some of its training rows. `ModelError` if it
        cannot be written."""

    @abstractmethod
    def load(self, content: bytes, features: Sequence[str]) -> Predictor:
        """The model back. `ModelError` for bytes that are not such a model."""

    def load_resident(self, content: bytes, features: Sequence[str]) -> Predictor:
        """The same for a process that stays and predicts a few rows at a time: loading may take longer
        if predicting is quicker then."""
        return self.load(content, features)

    def join(self, predictors: Sequence[Predictor]) -> JointPredictor | None:
        """Predictors of `load_resident`, one per component, as one that is quicker; None where there is
        no such thing for these."""
        return None

    def weights(self, content: bytes, features: Sequence[str], scale: Mapping[str, float]) -> dict[str, Any] | None:
        """The `All_Weights` object that Kepler evaluates itself, in the features' own units;
        None where the format has no such weights."""
        return None


CONTRACTS: dict[str, type[Plugin]] = {
    "kepler.trainers": Trainer,
    "kepler.isolators": Isolator,
    "kepler.extractors": Extractor,
    "kepler.energy_sources": EnergySource,
    "kepler.metric_schemas": MetricSchema,
    "kepler.model_formats": ModelFormat,
}
"""Entry-point namespace -> the class that its plugins derive from."""
