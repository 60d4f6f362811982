"""Claims names that are taken."""

from kepler_core.contracts import EnergySource, FitTask, Regressor, Trainer


class LinearRegressionTrainer(Trainer):
    """Another linear regression of the same name."""

    def regressor(self, task: FitTask) -> Regressor:
        from sklearn.linear_model import LinearRegression

        return LinearRegression()


class Acpi(EnergySource):
    """Another meter of the same name."""

    components = ("platform",)
    sent_as = "acpi"
    reads = ("another-acpi",)
