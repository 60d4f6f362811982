"""Select a model from a store, and explain the choice."""

from kepler_core.selection.catalogue import Catalogue
from kepler_core.selection.explanation import Selection
from kepler_core.selection.reading import read_catalogue
from kepler_core.selection.request import ModelRequest

__all__ = ["Catalogue", "ModelRequest", "Selection", "read_catalogue"]
