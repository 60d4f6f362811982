"""Is from a future in which the contracts are others: importing it here would fail."""

from kepler_core.contracts import ATrainerOfTheFuture


class BrokenApiTrainer(ATrainerOfTheFuture):
    """Cannot be known yet."""
