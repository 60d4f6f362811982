"""The built-in plugins. They are found by entry points, as third-party plugins are."""
