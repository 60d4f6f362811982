"""The profiler: machine discovery, node types and node-type profiles."""
