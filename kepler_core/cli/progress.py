"""The progress bar: a listener to events, like anybody's."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import click

from kepler_core.plugins.hooks import hookimpl


class ProgressBar:
    """Shows on a terminal how many models are trained."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._bar: Any = None

    @hookimpl
    def kepler_training_started(self, models: int) -> None:
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
        if self._bar is not None:
            self._bar.update(1, f"{model['source']} {model['output_type']} {model['trainer']}")

    def close(self) -> None:
        self._bar = None
        self._stack.close()
