"""Read an exporter directly, without Prometheus."""
