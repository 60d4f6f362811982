"""Find, load and call plugins: entry points, registries, hooks."""
