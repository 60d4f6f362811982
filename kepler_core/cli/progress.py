"""The progress bar of a training, a listener on the hooks."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import click

from kepler_core.plugins.hooks import hookimpl


class ProgressBar:
    """Progress bar on standard error: the number of trained models."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._bar: Any = None

    @hookimpl
    def kepler_training_started(self, models: int) -> None:
        """Show the bar for this number of models."""
        bar: Any = click.progressbar(
            length=models,
            label="training",
            file=sys.stderr,
            show_pos=True,
            item_show_func=lambda name: name or "",
        )
        self._bar = self._stack.enter_context(bar)

    @hookimpl
    def kepler_model_trained(self, model: Mapping[str, Any]) -> None:
        """Advance the bar and show the model's name."""
        if self._bar is not None:
            self._bar.update(1, f"{model['source']} {model['output_type']} {model['trainer']}")

    def close(self) -> None:
        """Remove the bar."""
        self._bar = None
        self._stack.close()
