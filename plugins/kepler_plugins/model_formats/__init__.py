"""How fitted models are written without pickle."""
