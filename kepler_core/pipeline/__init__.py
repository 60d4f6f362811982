"""Pipelines: what is trained from which data, how it is validated, and the training itself.

load_pipeline("default") -> PipelineSpec            YAML to attrs classes
train(spec, observations, store, ...) -> Report      data to published, validated models
"""

from kepler_core.pipeline.load import load_pipeline, shipped_pipelines
from kepler_core.pipeline.spec import PipelineSpec, PluginSpec, ValidationSpec

__all__ = ["PipelineSpec", "PluginSpec", "ValidationSpec", "load_pipeline", "shipped_pipelines"]
