"""Metric schemas: the metrics and labels of exporters."""
