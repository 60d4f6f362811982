"""Node-type profiles: the idle and highest power of a machine, and the ranges of its features.

`build_profile(observations, idle)` builds a `NodeProfile` from the observations in recordings.
"""

from kepler_profiler.profile.build import build_profile
from kepler_profiler.profile.document import NodeProfile, read_profile, write_profile

__all__ = ["NodeProfile", "build_profile", "read_profile", "write_profile"]
