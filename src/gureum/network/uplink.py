"""The device by which a machine reaches others, and its address there."""

from __future__ import annotations

import fcntl
import socket
import struct

from gureum.errors import NetworkError
from gureum.network.links import read_json

_SIOCGIFFLAGS = 0x8913
_UP, _RUNNING = 0x1, 0x40


def is_down(device: str) -> bool:
    """Whether it is off, has no carrier, or is not there at all; in this process's network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any:
        try:
            answer = fcntl.ioctl(any, _SIOCGIFFLAGS, struct.pack("16sh22x", device.encode(), 0))
        except OSError:
            return True
    flags: int = struct.unpack_from("h", answer, 16)[0]
    return flags & (_UP | _RUNNING) != _UP | _RUNNING


def towards(address: str) -> tuple[str, str]:
    """(device, this machine's address on it) of the way to an address or name. Raises NetworkError."""
    try:
        found = socket.getaddrinfo(address, None, socket.AF_INET, socket.SOCK_STREAM)[0][4][0]
    except OSError as error:
        raise NetworkError(f"{address} has no IPv4 address: {error.strerror}") from error
    route = read_json("route", "get", str(found))
    if not route or "prefsrc" not in route[0]:
        raise NetworkError(f"there is no way to {address}")
    return str(route[0]["dev"]), str(route[0]["prefsrc"])


def with_address(address: str) -> str:
    """The device that has this address of the machine's own. Raises NetworkError."""
    for device in read_json("address", "show"):
        if any(each["local"] == address for each in device["addr_info"] if "local" in each):
            return str(device["ifname"])
    raise NetworkError(f"this machine does not have the address {address}")


def default() -> tuple[str, str]:
    """(device, address) of the way to the world. Raises NetworkError."""
    for route in read_json("route", "show", "default"):
        for device in read_json("address", "show", "dev", str(route["dev"])):
            for each in device["addr_info"]:
                if each["family"] == "inet" and each["scope"] == "global":
                    return str(route["dev"]), str(each["local"])
    raise NetworkError("this machine has no default route over IPv4")
