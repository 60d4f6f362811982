"""The contracts of plugins: the classes that they derive from.

A plugin is a class that an entry point of a distribution names (here in setup.cfg;
examples/kepler-trainer-ridge does it in pyproject.toml):

    [options.entry_points]
    kepler.trainers =
        MyTrainer = my_package.my_module:MyTrainer
    kepler.trainers.aliases =
        mine = my_package.my_module:MyTrainer
    kepler.plugin_api =
        1.0 = my_package

After `pip install`, `kepler-model plugins list` shows the plugin and pipelines can name it. The left
side is the name that users write. An alias is a second name of the same class, in the group that ends
with `.aliases`; so names and aliases are listed without an import. `kepler.plugin_api` declares the
version of these contracts that the distribution was written for.

The keyword arguments of `__init__` are the arguments that users may write in YAML. Kepler Core checks
them against their annotations; `**kwargs` cannot be set. `kepler-model plugins info MyTrainer` shows
them with their defaults.

Plugins do not scale features, fit components one by one, split data for validation, export models or
write metadata. The framework does that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import attrs

from kepler_core.arrays import FloatArray, SingleArray
from kepler_core.vocabulary import OutputType

if TYPE_CHECKING:
    from kepler_core.dataset import Dataset
    from kepler_core.recording.observations import Observations

PLUGIN_API = (1, 0)
"""Version of these contracts: (major, minor). A minor step only adds; a major step may break plugins.

A distribution declares the version that it was written for in the entry-point group
`kepler.plugin_api`. "1.2" means from 1.2 up to, but without, 2.0. Distributions for other versions are
not imported."""


class Plugin:
    """Base class of all plugins."""

    extra: ClassVar[str | None] = None
    """The extra of kepler-core that the plugin needs, for example "xgboost"; None if it needs none."""


# --- kepler.trainers ------------------------------------------------------------------------------


class Regressor(Protocol):
    """A regressor with scikit-learn's `fit` and `predict`.

    If no model format supports your regressor, set `self.portable_` in `fit` to an equivalent supported
    one. Kepler Core stores that one and checks that both predict the same.
    """

    def fit(self, X: FloatArray, y: FloatArray) -> Any:
        """Fit to X, shape (samples, features), and y, shape (samples,), in watts."""

    def predict(self, X: FloatArray) -> FloatArray:
        """Return watts, shape (samples,), for X, shape (samples, features)."""


@attrs.frozen
class FitTask:
    """The component for which a trainer returns a regressor, and the columns of its data."""

    component: str
    """"package", "core", "uncore", "dram" or "platform"."""
    features: tuple[str, ...]
    """The columns of X, in order."""
    main_feature: str
    """The feature for a regressor that uses only one (see `kepler_core.vocabulary`)."""
    output_type: OutputType
    seed: int
    """Seed for every random choice: the same seed and data must give the same fit."""

    @property
    def main_column(self) -> int:
        """The column of X that holds the main feature."""
        return self.features.index(self.main_feature)


class Trainer(Plugin, ABC):
    """Returns the regressor of one component, which predicts watts from features.

    The framework fits a regressor once per validation fold and once on all data. X has shape (samples,
    features); each column is divided by its largest absolute value, so that 0 stays 0 and usual values
    are in [0, 1]. y has shape (samples,), in watts, ≥ 0. Several trainers share X and y, so a regressor
    must not change them in place. Components with constant power never reach a trainer. Predictions
    below 0 W are replaced by 0 W.
    """

    model_format: ClassVar[str | None] = None
    """Name of the model format: "distribution:name", or the name alone for one of kepler-core. None means
    "weights" if the regressor has a flat `coef_` and one `intercept_`, else "onnx"."""

    @abstractmethod
    def regressor(self, task: FitTask) -> Regressor:
        """Return a new unfitted regressor that scikit-learn can clone."""


# --- kepler.isolators -----------------------------------------------------------------------------


class AbsModel(Protocol):
    """A trained AbsPower model as isolators use it (`kepler_core.models.power_model.PowerModel` is one)."""

    @property
    def name(self) -> str:
        """The name of the model in its pipeline."""

    def predict(self, values: Any, features: Sequence[str] | None = None) -> Mapping[str, FloatArray]:
        """Return watts by component, each of shape (rows,).

        `values` has shape (rows, columns), in the features' own units. `features` names the columns.
        """


@attrs.frozen(eq=False)
class IsolationContext:
    """The information that an isolator may use besides the data set."""

    observations: Observations
    """The observations that the data set was extracted from."""
    idle: Observations | None = None
    """Observations of the idle machine, if the user recorded it."""
    background: frozenset[str] = frozenset()
    """Names of the containers that ran on the idle machine (`kepler_core.containers`)."""
    profile: Mapping[str, Any] | None = None
    """The profile of the machine's node type (`profiles/<node type>.json`), if there is one."""
    machine_spec: Mapping[str, Any] = attrs.field(factory=dict)
    """The specification of the machine, as far as it is known."""
    abs_model: Callable[[Dataset], AbsModel] | None = None
    """Returns the AbsPower model of the data set's source and features with the lowest validation
    error, and raises `PluginError` if there is none. None where no models are available."""
    applying: bool = False
    """True if a trained model is being applied. The isolator must then subtract the same power from the data
    set as it did when the model was trained."""


class Isolator(Plugin, ABC):
    """Takes idle and background power away from an AbsPower data set and returns a DynPower data set.

    The data set has a row per timestamp and container. The power of a node's containers at a timestamp
    adds up to the node's power (`Dataset.node_power`). `Dataset.isolated` takes power away such that
    dynamic power is never negative and dynamic + background = measured.
    """

    @abstractmethod
    def isolate(self, dataset: Dataset, context: IsolationContext) -> Dataset:
        """Return the data set with dynamic power only and the power that was taken away as `background`."""

    def reconstruct(self, dataset: Dataset) -> Dataset:
        """Return the inverse of `isolate`: dynamic power, measured or estimated, plus `background`."""
        return dataset.reconstructed()


# --- kepler.extractors ----------------------------------------------------------------------------


class Extractor(Plugin, ABC):
    """Makes data sets of features and power from observations: chooses the rows and smooths the values."""

    memory: int = 1
    """Number of timestamps that go into one row. Validation keeps a gap of at least that length between
    training rows and test rows."""

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
        """Return a data set with a row per node and timestamp, or per container of them.

        With `by_container` there is a row per node, timestamp and container. Power is in watts: that of
        the node or, `by_container`, the container's share in proportion to the component's main feature.
        Rows with an unknown feature or power are left out. `components` may be empty.
        """


# --- kepler.energy_sources ------------------------------------------------------------------------


class EnergySource(Plugin, ABC):
    """A power meter whose energy or power a recording may hold."""

    components: ClassVar[tuple[str, ...]]
    """The measured components, for example ("package", "core", "uncore", "dram") or ("platform",)."""

    sent_as: ClassVar[str]
    """The source's name in Kepler's requests for models: "intel_rapl" or "acpi"."""

    reads: ClassVar[tuple[str, ...]]
    """Values of a recording's source label that mean this meter, for example ("rapl-sysfs", "rapl")."""


# --- kepler.metric_schemas ------------------------------------------------------------------------


@attrs.frozen
class MetricMapping:
    """The feature or component that one metric of an exporter measures."""

    kind: Literal["feature", "energy", "power"]
    """"feature": `name` is a feature. "energy" (a counter of joules) or "power" (a gauge of watts):
    `name` is a component."""
    name: str
    """A feature or component of `kepler_core.vocabulary`."""
    level: Literal["container", "process", "vm", "node"]
    """What one series belongs to."""
    unit_labels: tuple[str, ...] = ()
    """Labels that distinguish the units to be added up, for example containers, or packages and modes.
    If two series of a node have the same values of these labels at one time, one of them is left out."""
    counter: bool = attrs.field()
    """Whether the metric is a counter, used as a rate per second. By default all but power is one."""
    scale: float = 1.0
    """Factor from the metric's unit to the unit of `kepler_core.vocabulary`."""
    aggregate: Literal["sum", "mean"] = "sum"
    """How the values of several units become the node's value."""
    source: str | None = None
    """The energy source of series without a source label."""
    note: str = ""
    """A remark for the user, for example that the metric's name is an old one."""

    @counter.default
    def _is_counter(self) -> bool:
        return self.kind != "power"


class MetricSchema(Plugin, ABC):
    """The metric names and labels of one exporter, in one range of its versions."""

    node_label: ClassVar[str] = "instance"
    """Label that distinguishes nodes."""
    node_alias_labels: ClassVar[tuple[str, ...]] = ()
    """Labels that name the machine itself. Two values of `node_label` with the same alias are two
    exporters on one machine."""
    container_labels: ClassVar[tuple[str, ...]] = ("container_id",)
    """Labels that name a container: its id, then the labels that replace a missing id."""
    source_label: ClassVar[str] = "source"
    """Label of an energy metric that names its meter."""
    mode_label: ClassVar[str | None] = None
    """Label of an energy metric that distinguishes "idle" from "dynamic" energy, which add up. With a
    label, Kepler Core detects energy that is counted twice; None turns that off."""

    @abstractmethod
    def mapping(self, metric: str) -> MetricMapping | None:
        """Return the mapping of a metric, or None if the metric belongs to another exporter.

        Must be quick and must not raise.
        """

    def spelling(self, level: str, name: str) -> str:
        """Return the metric name of a feature or component, for messages about missing metrics."""
        return name


# --- kepler.model_formats -------------------------------------------------------------------------


class Predictor(Protocol):
    """A loaded model of one component."""

    def predict(self, X: SingleArray) -> FloatArray:
        """Return watts, shape (samples,), for features divided by their scale, shape (samples, features)."""


class JointPredictor(Protocol):
    """Loaded models of several components that are evaluated in one call."""

    def predict(self, X: SingleArray) -> FloatArray:
        """Return watts, shape (components, samples), for features as `Predictor` takes them."""


class ModelFormat(Plugin, ABC):
    """Writes fitted regressors to bytes and loads models from bytes.

    The bytes hold no pickle, and loading runs no code from them. Loading and predicting must not import
    scikit-learn, pandas or the library that fitted the regressor.
    """

    suffix: ClassVar[str]
    """Suffix of file names, for example ".onnx"."""

    @abstractmethod
    def supports(self, regressor: Regressor) -> bool:
        """Return whether `dump` can write a fitted regressor of this kind."""

    @abstractmethod
    def dump(self, regressor: Regressor, features: Sequence[str], X: SingleArray) -> bytes:
        """Return a fitted regressor as bytes. X are some of its training rows.

        Raises `ModelError` if the regressor cannot be written.
        """

    @abstractmethod
    def load(self, content: bytes, features: Sequence[str]) -> Predictor:
        """Return the model that `dump` wrote.

        Raises `ModelError` for bytes that are not such a model of these features.
        """

    def load_resident(self, content: bytes, features: Sequence[str]) -> Predictor:
        """Load a model for a long-running process that predicts a few rows at a time.

        May take longer than `load` if predictions are quicker then.
        """
        return self.load(content, features)

    def join(self, predictors: Sequence[Predictor]) -> JointPredictor | None:
        """Return one quicker predictor for those of several components, or None if there is none.

        `predictors` come from `load_resident`, one per component.
        """
        return None

    def weights(self, content: bytes, features: Sequence[str], scale: Mapping[str, float]) -> dict[str, Any] | None:
        """Return the `All_Weights` object that Kepler evaluates itself, in the features' own units.

        Returns None if the model has no such weights.
        """
        return None


CONTRACTS: dict[str, type[Plugin]] = {
    "kepler.trainers": Trainer,
    "kepler.isolators": Isolator,
    "kepler.extractors": Extractor,
    "kepler.energy_sources": EnergySource,
    "kepler.metric_schemas": MetricSchema,
    "kepler.model_formats": ModelFormat,
}
"""Entry-point group -> the class that its plugins derive from."""
