"""Listeners that ship with Kepler Core: each is off until a setting says where to write."""
