"""The progress bar of a training, implemented as a listener of hooks."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import click

from kepler_core.plugins.hooks import Hooks, hookimpl


class ProgressBar:
    """Progress bar on standard error that shows the number of trained models."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._bar: Any = None

    @hookimpl
    def kepler_training_started(self, models: int) -> None:
        """Show the progress bar; `models` is the number of models that will be trained."""
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
        """Advance the bar by one model and show the model's source, output type and trainer."""
        if self._bar is not None:
            self._bar.update(1, f"{model['source']} {model['output_type']} {model['trainer']}")

    def close(self) -> None:
        """Remove the bar."""
        self._bar = None
        self._stack.close()


@contextmanager
def progress_bar(listeners: Hooks) -> Iterator[None]:
    """Show a progress bar that counts the trained models, if standard error is a terminal."""
    progress = ProgressBar() if sys.stderr.isatty() else None
    if progress is not None:
        listeners.listen(progress)
    try:
        yield
    finally:
        if progress is not None:
            progress.close()
