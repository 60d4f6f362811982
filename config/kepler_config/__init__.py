"""The pipelines and the sample recording that Kepler Core ships: data, no logic."""
