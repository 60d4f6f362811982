"""Recordings in Parquet: they are read in parts, and written with bounded memory.

open_parts(path)                -> RecordingParts    the recordings of groups of nodes, one after another
RecordingWriter(folder, mark)                        writes series to a folder, partitioned by metric and day
"""

from kepler_core.parquet.layout import is_parquet
from kepler_core.parquet.reading import PART_SAMPLES, open_parts
from kepler_core.parquet.writing import RecordingWriter, write_recording

__all__ = ["PART_SAMPLES", "RecordingWriter", "is_parquet", "open_parts", "write_recording"]
