"""Plugins: functions that find them in installed distributions, load them by name and call listeners of hooks."""
