"""The online trainer: it keeps served models up to date with the machines they describe."""
