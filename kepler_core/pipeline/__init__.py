"""Pipelines: which models are trained from which data, how they are validated, and the training itself.

load_pipeline("default") -> PipelineSpec             YAML to attrs classes
observe_for(spec, recordings) -> Observations        recordings as the pipeline uses them
train(spec, observations, store, ...) -> Report      observations to validated, published models
"""

from kepler_core.pipeline.load import load_pipeline, shipped_pipelines
from kepler_core.pipeline.spec import PipelineSpec, PluginSpec, ValidationSpec

__all__ = ["PipelineSpec", "PluginSpec", "ValidationSpec", "load_pipeline", "shipped_pipelines"]
