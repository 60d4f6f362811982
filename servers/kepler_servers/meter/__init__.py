"""The meter: tells other programs how much power this machine draws."""
