"""The processes that serve models and train them on request."""
