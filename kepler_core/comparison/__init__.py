"""Comparison of two pipelines, or of two versions of one pipeline: errors, training data, settings and selection."""
