"""A plugin whose distribution declares a plugin API version that does not exist yet.

Kepler Core must not import such a plugin. Importing this module fails, so that tests notice an import.
"""

from kepler_core.contracts import ATrainerOfTheFuture


class BrokenApiTrainer(ATrainerOfTheFuture):
    """A trainer that derives from a class that does not exist."""
