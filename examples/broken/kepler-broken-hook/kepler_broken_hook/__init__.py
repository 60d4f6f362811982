"""A listener that raises an exception in every hook that it implements."""

from kepler_core.plugins.hooks import hookimpl


@hookimpl
def kepler_recording_loaded(recording):
    raise RuntimeError("raised on purpose")


@hookimpl
def kepler_dataset_ready(dataset):
    raise RuntimeError("raised on purpose")


@hookimpl
def kepler_model_trained(model):
    raise SystemExit(5)


@hookimpl
def kepler_model_published(pipeline):
    raise RuntimeError("raised on purpose")


@hookimpl
def kepler_model_selected(model):
    raise RuntimeError("raised on purpose")


@hookimpl
def kepler_prediction_failed(reason):
    raise RuntimeError("raised on purpose")
