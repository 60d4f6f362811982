"""Pipelines: they define which models are trained, on which data, and how the models are validated.

load_pipeline("default") -> PipelineSpec             load a pipeline file
observe_for(spec, recordings) -> Observations        get the pipeline's observations from recordings
train(spec, observations, store, ...) -> Report      train, validate and publish the pipeline's models
"""

from kepler_core.pipeline.load import load_pipeline, shipped_pipelines
from kepler_core.pipeline.spec import PipelineSpec, PluginSpec, ValidationSpec

__all__ = ["PipelineSpec", "PluginSpec", "ValidationSpec", "load_pipeline", "shipped_pipelines"]
