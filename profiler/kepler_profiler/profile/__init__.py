"""Profiles of node types: what a machine draws when it does nothing, and at most.

build_profile(observations, idle) -> NodeProfile
"""

from kepler_profiler.profile.build import build_profile
from kepler_profiler.profile.document import NodeProfile, read_profile, write_profile

__all__ = ["NodeProfile", "build_profile", "read_profile", "write_profile"]
