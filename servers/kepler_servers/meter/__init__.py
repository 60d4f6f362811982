"""The meter: a server that publishes the watts of its machine for other programs."""
