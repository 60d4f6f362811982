"""The built-in collectors: they measure features of this machine for the meter."""
