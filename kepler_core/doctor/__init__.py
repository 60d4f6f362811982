"""Find out what is wrong with an installation of Kepler 0.10 or later, from its metrics alone.

examine(Recording)     -> list[Diagnosis]   the problems, and what the user can do
idle_power(Recording)  -> list[ZoneIdle]    the idle power of each zone, and Kepler's own "idle" power
"""
