"""The HTTP layer that all servers share."""
