"""The estimator: a server on a unix socket that answers Kepler's requests for watts."""
