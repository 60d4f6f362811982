"""How exporters spell their metrics."""
