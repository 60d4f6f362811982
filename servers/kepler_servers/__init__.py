"""Server processes that serve models, and server processes that train models on request."""
