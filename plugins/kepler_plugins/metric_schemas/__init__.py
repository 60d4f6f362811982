"""The built-in metric schemas, which map the metrics and labels of exporters."""
