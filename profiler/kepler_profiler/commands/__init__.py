"""Commands of the profiler, added to `kepler-model` by a hook (`kepler_profiler.hooks`)."""
