"""The profiler: discovery of machines, node types and node-type profiles."""
