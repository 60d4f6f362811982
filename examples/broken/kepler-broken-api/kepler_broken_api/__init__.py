"""Declares a plugin API version of the future. Importing this module would fail."""

from kepler_core.contracts import ATrainerOfTheFuture


class BrokenApiTrainer(ATrainerOfTheFuture):
    """Derives from a class that does not exist."""
