"""Has the right method and the wrong base class."""


class BrokenBaseIsolator:
    """An isolator by its looks."""

    def isolate(self, dataset, context):
        return dataset
