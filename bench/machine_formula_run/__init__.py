"""Parts of `bench/machine_formula.py`."""
