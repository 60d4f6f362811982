"""Read the power that the management controller measures, with DCMI commands through the kernel's IPMI device.

The command and its answer are defined in the Data Center Manageability Interface (DCMI) specification 1.5, section
6.6.1, "Get Power Reading". The interface of the device is defined in the header `linux/ipmi.h` of the Linux kernel. No
program such as ipmitool is needed.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import threading
import time
from pathlib import Path

import attrs

from kepler_core.errors import MeterError

ANSWER_SECONDS = 10.0
"""Time limit for an answer of the management controller."""
_STOP_POLL_SECONDS = 0.2

NETFN_GROUP_EXTENSION = 0x2C
NETFN_ANSWER = NETFN_GROUP_EXTENSION | 1
GET_POWER_READING = 0x02
DCMI = 0xDC
"""Identifier of the group extension DCMI. It is the first byte of each request, and the second byte of each answer."""
REQUEST = bytes((DCMI, 0x01, 0x00, 0x00))
"""Request for the present power of the system (mode 1)."""
_ANSWER_BYTES = 19
_MEASURES = 0x40
"""Bit in the last byte of an answer. It is set if the controller measures power at present."""
_CODES = {
    0xC1: "the management controller does not know DCMI's power reading",
    0xC7: "the management controller rejects the length of the request",
    0xC9: "the management controller has no power reading",
    0xCC: "the management controller rejects the request",
    0xD4: "the management controller does not allow the request",
}


def watts_of(answer: bytes) -> float:
    """Return the watts in the data of an answer to `REQUEST`. Raises `MeterError` if the answer has no watts.

    An answer has these bytes: completion code (1), 0xDC (1), present, lowest, highest and mean power in watts (2 each,
    little-endian), time stamp (4), period of the statistics in ms (4), state (1).
    """
    if not answer:
        raise MeterError("the management controller sent an empty answer")
    if answer[0] != 0:
        reason = _CODES.get(answer[0], "the management controller refuses the power reading")
        raise MeterError(f"{reason} (completion code {answer[0]:#04x})")
    if len(answer) < _ANSWER_BYTES or answer[1] != DCMI:
        raise MeterError(f"{len(answer)} bytes are no answer to a power reading")
    if not answer[_ANSWER_BYTES - 1] & _MEASURES:
        raise MeterError("the management controller does not measure the power at present")
    return float(int.from_bytes(answer[2:4], "little"))


class _Message(ctypes.Structure):
    _fields_ = (
        ("netfn", ctypes.c_ubyte),
        ("cmd", ctypes.c_ubyte),
        ("data_len", ctypes.c_ushort),
        ("data", ctypes.c_void_p),
    )


class _Address(ctypes.Structure):
    """The kernel's `struct ipmi_system_interface_addr`."""

    _fields_ = (("addr_type", ctypes.c_int), ("channel", ctypes.c_short), ("lun", ctypes.c_ubyte))


class _Request(ctypes.Structure):
    _fields_ = (
        ("addr", ctypes.c_void_p),
        ("addr_len", ctypes.c_uint),
        ("msgid", ctypes.c_long),
        ("msg", _Message),
    )


class _Received(ctypes.Structure):
    _fields_ = (
        ("recv_type", ctypes.c_int),
        ("addr", ctypes.c_void_p),
        ("addr_len", ctypes.c_uint),
        ("msgid", ctypes.c_long),
        ("msg", _Message),
    )


_SYSTEM_INTERFACE = 0x0C
_BMC_CHANNEL = 0x0F
_RESPONSE = 1
_ADDRESS_BYTES = 40
_DATA_BYTES = 272


def _ioctl_number(direction: int, number: int, size: int) -> int:
    """Return the number of an ioctl of the IPMI device (magic "i"); see the kernel's `asm-generic/ioctl.h`."""
    return direction << 30 | size << 16 | ord("i") << 8 | number


SEND_COMMAND = _ioctl_number(2, 13, ctypes.sizeof(_Request))
RECEIVE_MESSAGE = _ioctl_number(3, 11, ctypes.sizeof(_Received))
"""Number of the ioctl IPMICTL_RECEIVE_MSG_TRUNC. If a message is too long, this ioctl truncates it; IPMICTL_RECEIVE_MSG
would leave it in the queue."""


@attrs.define
class IpmiDevice:
    """An open IPMI device, e.g. /dev/ipmi0. The process must be root or have the permission to write the device."""

    path: Path
    _descriptor: int = attrs.field(init=False)
    _number: int = attrs.field(init=False, default=0)
    """Number of the latest request."""

    def __attrs_post_init__(self) -> None:
        """Open the device. Raises `MeterError` with the reason if it cannot be opened."""
        try:
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise MeterError(
                f"{self.path} does not exist: load the kernel modules (`modprobe ipmi_devintf ipmi_si`)"
            ) from error
        except PermissionError as error:
            raise MeterError(f"{self.path} can only be read by root") from error
        except OSError as error:
            raise MeterError(f"{self.path}: {error.strerror or error}") from error

    def watts(self, stop: threading.Event) -> float:
        """Return the watts of the whole machine.

        Raises `MeterError`, e.g. if no answer arrives within `ANSWER_SECONDS`.
        """
        try:
            self._send()
            return watts_of(self._answer(stop))
        except OSError as error:
            raise MeterError(f"{self.path}: {error.strerror or error}") from error

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _send(self) -> None:
        self._number += 1
        data = ctypes.create_string_buffer(REQUEST, len(REQUEST))
        address = _Address(_SYSTEM_INTERFACE, _BMC_CHANNEL, 0)
        message = _Message(NETFN_GROUP_EXTENSION, GET_POWER_READING, len(REQUEST), ctypes.addressof(data))
        request = _Request(ctypes.addressof(address), ctypes.sizeof(address), self._number, message)
        fcntl.ioctl(self._descriptor, SEND_COMMAND, request)

    def _answer(self, stop: threading.Event) -> bytes:
        """Return the data of the answer to the latest request. Late answers to earlier requests are dropped."""
        end = time.monotonic() + ANSWER_SECONDS
        while time.monotonic() < end and not stop.is_set():
            if not select.select([self._descriptor], [], [], _STOP_POLL_SECONDS)[0]:
                continue
            data = ctypes.create_string_buffer(_DATA_BYTES)
            address = ctypes.create_string_buffer(_ADDRESS_BYTES)
            message = _Message(0, 0, _DATA_BYTES, ctypes.addressof(data))
            received = _Received(0, ctypes.addressof(address), _ADDRESS_BYTES, 0, message)
            try:
                fcntl.ioctl(self._descriptor, RECEIVE_MESSAGE, received)
            except OSError as error:
                if error.errno == errno.EAGAIN:
                    continue
                raise
            is_answer = received.recv_type == _RESPONSE and received.msgid == self._number
            if is_answer and (received.msg.netfn, received.msg.cmd) == (NETFN_ANSWER, GET_POWER_READING):
                return data.raw[: min(received.msg.data_len, _DATA_BYTES)]
        raise MeterError(f"{self.path}: the management controller did not answer within {ANSWER_SECONDS:g} s")
