"""Uses two names of built-in plugins."""

from kepler_core.contracts import EnergySource, FitTask, Regressor, Trainer


class LinearRegressionTrainer(Trainer):
    """A linear regression with the name of the built-in one."""

    def regressor(self, task: FitTask) -> Regressor:
        from sklearn.linear_model import LinearRegression

        return LinearRegression()


class Acpi(EnergySource):
    """A meter with the name of the built-in one."""

    components = ("platform",)
    sent_as = "acpi"
    reads = ("another-acpi",)
