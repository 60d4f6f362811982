"""The targets of a training: the parts of a host's power that can be called the power of a virtual machine.

No meter measures a virtual machine. In a window of `seconds`, the host used `joules`, and its CPUs were busy for the
fraction `usage` of the time. The virtual machine's process ran for `vm_seconds`, all processes together ran for
`all_seconds`. The virtual machine's energy in joules is then, by target:

- `kepler`: usage · joules · vm_seconds / all_seconds. Kepler 0.10 and later reports this power. It contains a part of
  the host's idle power. This part becomes smaller when the other virtual machines are busier.
- `capacity`: joules · vm_seconds / (cpus · seconds). The virtual machine's part of all CPU time that the host has.
- `marginal`: (joules − idle_watts · seconds) · vm_seconds / all_seconds + reserved · idle_watts · seconds. This is the
  sum of two parts: the virtual machine's share of the work times the energy above idle, and the reserved share of the
  host times the idle energy.

The functions take and return arrays of the shape (windows,). The result is in watts, and NaN where the power is not
defined, e.g. if no process ran.
"""

from __future__ import annotations

import numpy as np

from kepler_core.arrays import FloatArray


def kepler_watts(
    joules: FloatArray, seconds: FloatArray, usage: FloatArray, vm_seconds: FloatArray, all_seconds: FloatArray
) -> FloatArray:
    """Return the watts of the target `kepler`: the virtual machine's share as Kepler reports it."""
    return _ratio(usage * joules * _ratio(vm_seconds, all_seconds), seconds)


def capacity_watts(joules: FloatArray, seconds: FloatArray, vm_seconds: FloatArray, cpus: int) -> FloatArray:
    """Return the watts of the target `capacity`.

    They are the host's power, multiplied by the part of the host's CPU time that the virtual machine used. `cpus` is
    the number of the host's logical CPUs.
    """
    return _ratio(joules * vm_seconds, cpus * seconds * seconds)


def marginal_watts(
    joules: FloatArray,
    seconds: FloatArray,
    vm_seconds: FloatArray,
    all_seconds: FloatArray,
    idle_watts: float,
    reserved: float,
) -> FloatArray:
    """Return the watts of the target `marginal`: a share of the power above idle, plus a part of the idle power.

    `idle_watts` is the power of the idle host. `reserved` is the part of the host that is reserved for the virtual
    machine, from 0 to 1. If a host drew less than its idle power, its energy above idle counts as 0.
    """
    above = np.maximum(joules - idle_watts * seconds, 0.0)
    return _ratio(above * _ratio(vm_seconds, all_seconds), seconds) + reserved * idle_watts


def _ratio(above: FloatArray, below: FloatArray) -> FloatArray:
    """Return the quotient; NaN where the divisor is not above 0."""
    quotient = np.full(np.broadcast(above, below).shape, np.nan)
    np.divide(above, below, out=quotient, where=below > 0)
    return quotient
