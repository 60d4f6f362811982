"""The modules of the benchmark `bench/accuracy.py`."""
