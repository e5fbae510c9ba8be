"""Taps: the network devices whose other end is a hypervisor's file descriptor."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from gureum.errors import NetworkError

_TUNSETIFF = 0x400454CA
_TUNSETPERSIST = 0x400454CB
_TUNSETOFFLOAD = 0x400454D0
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_OFFLOADS = 0x01 | 0x02 | 0x04 | 0x08
"""Checksums, TSO for IPv4 and IPv6, ECN: large packets pass from guest to guest in one piece."""


def create_tap(name: str) -> None:
    """Make a tap in the calling thread's namespace that stays when nobody has it open. Idempotent."""
    try:
        fd = _attach(name)
    except OSError as error:
        if error.errno == errno.EBUSY:
            return
        raise NetworkError(f"cannot create tap {name}: {error.strerror}") from error
    try:
        fcntl.ioctl(fd, _TUNSETPERSIST, 1)
    finally:
        os.close(fd)


def open_tap(name: str) -> int:
    """A file descriptor of the tap in the calling thread's namespace: frames, each after a virtio-net header.

    NetworkError if it is not there, or has been opened and not been closed.
    """
    if not os.path.exists(f"/proc/sys/net/ipv4/conf/{name}"):
        raise NetworkError(f"there is no tap {name}")
    try:
        fd = _attach(name)
    except OSError as error:
        reason = "a guest is attached to it" if error.errno == errno.EBUSY else error.strerror
        raise NetworkError(f"cannot open tap {name}: {reason}") from error
    try:
        fcntl.ioctl(fd, _TUNSETOFFLOAD, _OFFLOADS)
    except OSError as error:
        os.close(fd)
        raise NetworkError(f"cannot set up tap {name}: {error.strerror}") from error
    return fd


def _attach(name: str) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        request = struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR)
        fcntl.ioctl(fd, _TUNSETIFF, request)
    except OSError:
        os.close(fd)
        raise
    return fd
