"""Two plugins that have the names of built-in plugins."""

from kepler_core.contracts import EnergySource, FitTask, Regressor, Trainer


class LinearRegressionTrainer(Trainer):
    """A linear regression with the same name as a built-in trainer."""

    def regressor(self, task: FitTask) -> Regressor:
        from sklearn.linear_model import LinearRegression

        return LinearRegression()


class Acpi(EnergySource):
    """A power meter with the same name as a built-in energy source."""

    components = ("platform",)
    sent_as = "acpi"
    reads = ("another-acpi",)
