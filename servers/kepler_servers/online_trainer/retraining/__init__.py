"""Retraining: train challengers, compare them with the served models, and publish the better challengers."""
