"""Pipelines and the sample that Kepler Core ships: data, no logic."""
