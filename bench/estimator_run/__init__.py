"""The parts of `bench/estimator.py`."""
