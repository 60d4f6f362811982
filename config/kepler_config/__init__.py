"""The data that Kepler Core ships: pipelines, a sample recording, tables of machines, and files for monitoring."""
