"""The HTML report of a training: a page that a listener adds to each published pipeline."""
