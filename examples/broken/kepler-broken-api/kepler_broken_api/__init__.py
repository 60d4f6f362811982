"""A plugin whose distribution declares a plugin API version that does not exist yet.

Importing this module fails, so the tests see whether Kepler Core imports it.
"""

from kepler_core.contracts import ATrainerOfTheFuture


class BrokenApiTrainer(ATrainerOfTheFuture):
    """A trainer that derives from a class that does not exist."""
