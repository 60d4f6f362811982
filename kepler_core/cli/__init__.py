"""The command `kepler-model`; a module per group of commands, imported when it is called."""
