"""The modules of the benchmark `bench/machine_formula.py`."""
