"""The pages of the model server, and the page that describes the endpoints of any server."""
