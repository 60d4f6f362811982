"""The power sources of the meter: devices that measure power, models, and the machine formula."""
