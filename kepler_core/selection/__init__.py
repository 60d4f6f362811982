"""Which model of a store to use, and why."""

from kepler_core.selection.catalogue import Catalogue, read_catalogue
from kepler_core.selection.explanation import Selection
from kepler_core.selection.request import ModelRequest

__all__ = ["Catalogue", "ModelRequest", "Selection", "read_catalogue"]
