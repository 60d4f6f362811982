"""Helpers that several test modules use: processes under test, clients and small inputs."""
