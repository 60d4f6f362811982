"""The ten trainers."""
