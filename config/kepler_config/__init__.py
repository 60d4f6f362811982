"""Pipelines and settings that ship with the package: data, no logic."""
