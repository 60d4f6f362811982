"""The offline trainer: recordings come over HTTP, models are trained in processes of their own."""
