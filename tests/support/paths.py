"""Paths of the checkout and of the folder with shared real recordings."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
