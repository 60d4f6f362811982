"""The estimator: Kepler asks it every few seconds, over a unix socket, for watts."""
