"""The model server: it returns the power model that fits a machine best."""
