"""The modules of the benchmark `bench/estimator.py`."""
