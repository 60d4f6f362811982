"""The parts of `bench/accuracy.py`."""
