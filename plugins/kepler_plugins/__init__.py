"""The built-in plugins. Kepler Core finds them by their entry points, like the plugins of third parties."""
