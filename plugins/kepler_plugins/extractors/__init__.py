"""From observations to data sets."""
