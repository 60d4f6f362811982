"""The power sources of the meter: real meters, models, and the machine formula."""
