"""The contracts of plugins: the base classes that plugins derive from.

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
side of an entry (`MyTrainer`) is the name that users write. An alias (`mine`) is a second name of the same
class; it is declared in the group whose name ends with `.aliases`. Kepler Core reads names and aliases from
the entry points, so that listing plugins does not import them. `kepler.plugin_api` declares the version of
these contracts that the distribution was written for.

The keyword arguments of the class's `__init__` are the arguments that users can set in YAML. Kepler Core
checks the users' values against the annotations of these arguments; `**kwargs` cannot be set.
`kepler-model plugins info MyTrainer` shows the arguments with their defaults.

Plugins do not scale features, fit components one by one, split data for validation, export models or
write metadata. Kepler Core does all of this.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import attrs

from kepler_core.arrays import FloatArray, SingleArray
from kepler_core.metering import Collector as Collector
from kepler_core.metering import Output as Output
from kepler_core.metric_mappings import MachineMapping as MachineMapping
from kepler_core.metric_mappings import MetricMapping as MetricMapping
from kepler_core.metric_mappings import UnusedMetric as UnusedMetric
from kepler_core.plugin import PLUGIN_API as PLUGIN_API
from kepler_core.plugin import Plugin as Plugin
from kepler_core.vocabulary import RARE_MAXIMUM, OutputType

if TYPE_CHECKING:
    from kepler_core.dataset import Dataset
    from kepler_core.recording.observations import Observations

# --- kepler.trainers ------------------------------------------------------------------------------


class Regressor(Protocol):
    """A regressor with scikit-learn's `fit` and `predict`.

    If no model format supports your regressor, set `self.portable_` in `fit` to an equivalent regressor that a
    model format supports. Kepler Core then stores this equivalent regressor instead of yours, and checks that
    both predict the same.
    """

    def fit(self, X: FloatArray, y: FloatArray) -> Any:
        """Fit the regressor to the features X, shape (samples, features), and the watts y, shape (samples,)."""

    def predict(self, X: FloatArray) -> FloatArray:
        """Return watts, shape (samples,), for X, shape (samples, features)."""


@attrs.frozen
class FitTask:
    """The component for which a trainer returns a regressor, and the features that the regressor gets."""

    component: str
    """Name of the component: "package", "core", "uncore", "dram" or "platform"."""
    features: tuple[str, ...]
    """Names of the features in X, in the order of its columns."""
    main_feature: str
    """The feature to use if the regressor uses only one feature (see `kepler_core.vocabulary.main_feature`)."""
    output_type: OutputType
    seed: int
    """Seed for the regressor's random choices: the same seed and data must give the same fitted regressor."""
    scale: tuple[float, ...] = ()
    """Largest absolute value of each feature in the training rows, in the feature's own unit and in the order of
    `features`; 1 for a feature that is always 0. Empty if it is not known."""

    @property
    def rare_columns(self) -> tuple[int, ...]:
        """Indices of the columns of X whose feature is at most 1 in all training rows, in ascending order.

        Kepler does not get the weights of a linear model that has a weight on one of these columns.
        """
        return tuple(column for column, scale in enumerate(self.scale) if scale <= RARE_MAXIMUM)

    @property
    def main_column(self) -> int:
        """Index of the column of X that holds the main feature."""
        return self.features.index(self.main_feature)


class Trainer(Plugin, ABC):
    """Plugin that provides regressors: each predicts the watts of one component from features.

    For each component, Kepler Core fits one regressor per validation fold and one on all data. X holds the
    features, shape (samples, features). Kepler Core has divided each column by its largest absolute value,
    so that 0 stays 0 and usual values are in [0, 1]. y holds watts ≥ 0, shape (samples,). Several trainers
    share X and y, so a regressor must not change X or y in place. Kepler Core calls no trainer for a
    component with constant power, and replaces predictions below 0 W by 0 W.
    """

    model_format: ClassVar[str | None] = None
    """Name of the model format: "distribution:name", or the name alone for a model format of kepler-core. None
    means "weights" if the regressor has a one-dimensional `coef_` and one `intercept_`, and "onnx" otherwise."""

    @abstractmethod
    def regressor(self, task: FitTask) -> Regressor:
        """Return a new unfitted regressor that `sklearn.base.clone` can copy."""


# --- kepler.isolators -----------------------------------------------------------------------------


class AbsModel(Protocol):
    """Interface of the trained AbsPower models that isolators can use.

    `kepler_core.models.power_model.PowerModel` implements this interface.
    """

    @property
    def name(self) -> str:
        """The name of the model in its pipeline."""

    def predict(self, values: Any, features: Sequence[str] | None = None) -> Mapping[str, FloatArray]:
        """Return watts by component, each of shape (rows,).

        `values` holds unscaled features, shape (rows, columns). `features` names the columns of `values`.
        """


@attrs.frozen(eq=False)
class IsolationContext:
    """The information that an isolator may use besides the data set."""

    observations: Observations
    """The observations that the data set was extracted from."""
    idle: Observations | None = None
    """Observations of the idle machine; None if the user gave no recording of it."""
    background: frozenset[str] = frozenset()
    """Names of the containers that ran on the idle machine, as `kepler_core.containers.workload` returns them."""
    profile: Mapping[str, Any] | None = None
    """The profile of the machine's node type (`profiles/<node type>.json`); None if there is no profile."""
    machine_spec: Mapping[str, Any] = attrs.field(factory=dict)
    """The known attributes of the machine (see `kepler_core.machine`); empty if none is known."""
    abs_model: Callable[[Dataset], AbsModel] | None = None
    """Function that returns the best AbsPower model for the energy source and the features of a data set: the
    one with the lowest validation error. It raises `PluginError` if there is no such model. The attribute is
    None if the isolator has no access to models."""
    applying: bool = False
    """True if a trained model is applied, False during a training. If True, the isolator must determine the
    background power as it did in the training of the model, e.g. with the same idle power."""


class Isolator(Plugin, ABC):
    """Plugin that subtracts idle and background power from a data set; what remains is dynamic power.

    The data set has one row per container and (node, timestamp) sample. The power of all containers in a
    sample adds up to the node's power (`Dataset.node_power`). Use `Dataset.isolated` to subtract power: it
    ensures that dynamic power is never negative, and that dynamic + background power = measured power.
    """

    @abstractmethod
    def isolate(self, dataset: Dataset, context: IsolationContext) -> Dataset:
        """Return a data set that has the dynamic power, and whose `background` is the power that was subtracted."""

    def reconstruct(self, dataset: Dataset) -> Dataset:
        """Undo `isolate`: return the data set with its dynamic power (measured or estimated) plus `background`."""
        return dataset.reconstructed()


# --- kepler.extractors ----------------------------------------------------------------------------


class Extractor(Plugin, ABC):
    """Plugin that makes data sets from observations. It chooses the rows, and may smooth the values."""

    memory: int = 1
    """Number of consecutive timestamps whose values go into one row. Validation leaves out at least this number
    of timestamps between training rows and test rows."""

    def dataset_features(self, features: Sequence[str]) -> tuple[str, ...]:
        """Return the features of the data sets on which models of a feature group are trained.

        `features` are the features of the feature group. The training passes the returned features to `extract`. An
        extractor may add features that it computes itself.
        """
        return tuple(features)

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
        """Return a data set with one row per sample, or one row per container and sample.

        A sample is a node at a timestamp. Without `by_container`, a row has the node's watts. With
        `by_container`, a row has the watts of one container: for each component, the node's watts are divided
        among the containers in proportion to the component's main feature (`kepler_core.vocabulary.main_feature`). Rows
        with an unknown feature or power are left out. `components` may be empty: then the rows have no watts.
        """


# --- kepler.energy_sources ------------------------------------------------------------------------


class EnergySource(Plugin, ABC):
    """Plugin that describes a power meter: its components, and the names it has in recordings and requests."""

    components: ClassVar[tuple[str, ...]]
    """The components that the meter measures, e.g. ("package", "core", "uncore", "dram") or ("platform",)."""

    sent_as: ClassVar[str]
    """Name of the energy source in Kepler's requests for models: "intel_rapl" or "acpi"."""

    reads: ClassVar[tuple[str, ...]]
    """Values of a series' source label that stand for this meter, for example ("rapl-sysfs", "rapl")."""


# --- kepler.metric_schemas ------------------------------------------------------------------------


class MetricSchema(Plugin, ABC):
    """Plugin that describes the metric names and labels of one exporter, or of a range of its versions."""

    node_label: ClassVar[str] = "instance"
    """Name of the label that distinguishes nodes."""
    node_alias_labels: ClassVar[tuple[str, ...]] = ()
    """Labels whose value names the machine. On one machine, several exporters may have different values of
    `node_label`. Their series belong to one machine if they have the same value of one of these labels."""
    container_labels: ClassVar[tuple[str, ...]] = ("container_id",)
    """Labels that identify a container: first the label of its id, then labels to use if the id is missing."""
    source_label: ClassVar[str] = "source"
    """Name of the label that tells which meter an energy metric comes from."""
    mode_label: ClassVar[str | None] = None
    """Name of the label whose value is "idle" or "dynamic", for exporters that split energy into these two parts.
    Such an exporter may report the whole energy in both modes, so that the sum of both is twice the true energy.
    Kepler Core uses the label to detect this. None: the exporter does not split energy."""

    @abstractmethod
    def mappings(self, metric: str) -> Sequence[MetricMapping | UnusedMetric]:
        """Return what the series of a metric measure; an empty sequence if the metric belongs to another exporter.

        A series is used by each mapping that selects it (`MetricMapping.where`). A series that no mapping selects
        counts as unknown. For series that are known and not used, return an `UnusedMetric` with the reason. This method
        must be quick and must not raise.
        """

    def machine_mappings(self, metric: str) -> Sequence[MachineMapping]:
        """Return what the series of a metric state about the machine of their node, e.g. its processor.

        The option `--machine-specs metrics` of the command `train` groups nodes by these attributes. A metric that
        `mappings` does not know may state attributes, too. By default, no metric states any.
        """
        return ()

    def spelling(self, level: str, name: str) -> str:
        """Return the exporter's metric name for a feature or component, for messages about missing metrics."""
        return name


# --- kepler.model_formats -------------------------------------------------------------------------


class Predictor(Protocol):
    """Interface of a loaded model that predicts the watts of one component."""

    def predict(self, X: SingleArray) -> FloatArray:
        """Return watts, shape (samples,). X holds features divided by their scale, shape (samples, features)."""


class JointPredictor(Protocol):
    """Interface of a loaded model that predicts the watts of several components in one call."""

    def predict(self, X: SingleArray) -> FloatArray:
        """Return watts, shape (components, samples). X is the same as for `Predictor.predict`."""


@runtime_checkable
class ExtensiblePredictor(Protocol):
    """Interface of a `Predictor` or `JointPredictor` that can also predict the watts of a second model, its twin."""

    def predict(self, X: SingleArray) -> FloatArray:
        """Return watts; see `Predictor.predict` and `JointPredictor.predict`."""

    def extended(self, more: Predictor | JointPredictor, columns: Sequence[int]) -> JointPredictor | None:
        """Return one predictor for the components of this predictor and then those of `more`.

        The input X of the new predictor begins with the features of this predictor. `columns` has, for each feature of
        `more`, the index of its column in X. A feature that both predictors use has one column. The other features of
        `more` have columns after those of this predictor. The new predictor must predict exactly the watts of the two
        separate predictors. Return None if the two predictors cannot be evaluated together.
        """


RowFunction = Callable[[list[float]], list[float]]
"""Function that predicts a single row. It takes features that are scaled and rounded to single precision, and returns
the watts of each component."""


@runtime_checkable
class SingleRowPredictor(Protocol):
    """Interface of a `Predictor` or `JointPredictor` that can predict a single row without most of NumPy's overhead."""

    def predict(self, X: SingleArray) -> FloatArray:
        """Return watts; see `Predictor.predict` and `JointPredictor.predict`."""

    def row_function(self) -> RowFunction | None:
        """Return a function that predicts a single row of finite features; None if there is none.

        Its watts must be exactly those of `predict`, whether `predict` gets only this row or further rows, too.
        """


class ModelFormat(Plugin, ABC):
    """Plugin that writes fitted regressors to bytes, and loads models from these bytes.

    The bytes must not contain a pickle, and loading them must not run code that they contain. Loading and
    predicting must not import scikit-learn, pandas or the library that fitted the regressor.
    """

    suffix: ClassVar[str]
    """Suffix of the names of model files in this format, for example ".onnx"."""

    @abstractmethod
    def supports(self, regressor: Regressor) -> bool:
        """Return whether `dump` can write a fitted regressor of this kind."""

    @abstractmethod
    def dump(self, regressor: Regressor, features: Sequence[str], X: SingleArray) -> bytes:
        """Return a fitted regressor as bytes. X holds some of the rows that the regressor was fitted to.

        Raises `ModelError` if the regressor cannot be written.
        """

    @abstractmethod
    def load(self, content: bytes, features: Sequence[str]) -> Predictor:
        """Load a model from the bytes that `dump` returned.

        Raises `ModelError` if the bytes are not a model of this format, or not a model of `features`.
        """

    def load_resident(self, content: bytes, features: Sequence[str]) -> Predictor:
        """Load a model for a long-running process that predicts a few rows at a time.

        This method may take longer than `load` if that makes the model's predictions quicker.
        """
        return self.load(content, features)

    def join(self, predictors: Sequence[Predictor]) -> JointPredictor | None:
        """Return one predictor for several components that replaces `predictors`; None if it would not be quicker.

        `predictors` has one predictor per component, loaded by `load_resident`.
        """
        return None

    def weights(self, content: bytes, features: Sequence[str], scale: Mapping[str, float]) -> dict[str, Any] | None:
        """Return the model as an `All_Weights` object, from which Kepler itself calculates watts.

        The weights apply to unscaled features. Returns None if the model cannot be written as weights.
        """
        return None


CONTRACTS: dict[str, type[Plugin]] = {
    "kepler.trainers": Trainer,
    "kepler.isolators": Isolator,
    "kepler.extractors": Extractor,
    "kepler.energy_sources": EnergySource,
    "kepler.metric_schemas": MetricSchema,
    "kepler.model_formats": ModelFormat,
    "kepler.collectors": Collector,
    "kepler.outputs": Output,
}
"""Maps each entry-point group to the class that the plugins of this group derive from."""
