"""Recordings of a host and of a virtual machine on it, joined for the training of models of virtual machines.

read_host(Recording, vm, ...)      -> HostWindows   watts of the virtual machine in the windows of the host's Kepler
read_guest(file)                   -> GuestUsage    features that the guest measured
align(HostWindows, GuestUsage)     -> Alignment     offset of the clocks, with its interval
pair_table(...)                    -> Table         one row per window: features of the guest, watts of the target
"""
