"""The online trainer: models that keep up with the machines they describe."""
