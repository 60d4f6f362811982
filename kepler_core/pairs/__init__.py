"""Recordings of a host and of a virtual machine on it, joined for the training of models of virtual machines.

read_host(Recording, vm, ...)      -> HostWindows   watts of the virtual machine between the readings of the host
read_guest(file)                   -> GuestUsage    features that the guest measured
align(HostWindows, GuestUsage)     -> Alignment     offset of the clocks, with a 90 % interval
pair_table(...)                    -> Table         one row per window: features of the guest, watts of the target
"""
