"""The parts of the chaos run, which `bench/chaos.py` starts."""
