"""Find out what is wrong with an installation of Kepler 0.10 or later, from its metrics alone.

examine(Recording)     -> list[Diagnosis]   what was seen, and what to do about it
idle_power(Recording)  -> list[ZoneIdle]    the idle power of each zone, beside Kepler's own "idle" power
"""
