"""Portable power models: files in, watts out, without pickle and without the library that fitted."""

from kepler_core.models.power_model import PowerModel, load_model

__all__ = ["PowerModel", "load_model"]
