"""The modules of the chaos run, which `bench/chaos.py` starts."""
