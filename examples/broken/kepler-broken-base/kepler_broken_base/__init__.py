"""Has a class with the right method and the wrong base class."""


class BrokenBaseIsolator:
    """Does not derive from `Isolator`."""

    def isolate(self, dataset, context):
        return dataset
