"""An isolator with the right method and the wrong base class."""


class BrokenBaseIsolator:
    """An isolator that does not derive from the base class `Isolator`."""

    def isolate(self, dataset, context):
        return dataset
