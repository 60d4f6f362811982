"""Retraining: train challengers, compare them with the served models, publish those that are better."""
