"""The HTTP layer of all servers: routes, typed answers, the OpenAPI document, and the server processes."""
