"""The model server, which returns the power model that fits a machine best."""
