"""The offline trainer: an HTTP server that trains power models from the recordings that clients send."""
