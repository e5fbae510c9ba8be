"""Programs and maps in the kernel's BPF, by its system call; places of programs at devices.

There are two kinds of places. Those of clsact (``place``, by netlink) are made for thousands of devices at
once. Those of tcx (``attach``, from Linux 6.6 on) cost a packet less, but the kernel waits for a grace
period, some milliseconds, whenever a device gets one.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import socket
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from gureum.network.conntrack import attribute

_SYSCALL = {"x86_64": 321, "aarch64": 280}
_libc = ctypes.CDLL(None, use_errno=True)
_MAP_CREATE, _MAP_UPDATE, _MAP_DELETE, _PROGRAM_LOAD = 0, 2, 3, 5
_PROGRAM_ATTACH, _PROGRAM_DETACH, _PROGRAM_BY_ID, _PROGRAM_QUERY = 8, 9, 13, 16
_REPLACE = 4
_ATTRIBUTES_BYTES = 128
HASH, ARRAY, LRU_HASH = 1, 2, 9
NO_PREALLOCATION = 1
_CLASSIFIER = 3
_LICENSE = b""
"""The kernel wants one for some functions only, of which none is called here."""
_VERIFIER_LOG_BYTES = 1 << 16

_NEW_QDISC, _DELETE_QDISC, _NEW_FILTER = 36, 37, 44
_REQUEST, _ACK, _CREATE = 0x1, 0x4, 0x400
_ERROR = 2
_CLSACT = 0xFFFFFFF1
INGRESS, EGRESS = 0xFFFFFFF2, 0xFFFFFFF3
_ATTACH_TYPES = {INGRESS: 46, EGRESS: 47}
_ATTACHED_MAX = 16
_CLSACT_HANDLE = 0xFFFF0000
_KIND, _OPTIONS = 1, 2
_BPF_FD, _BPF_NAME, _BPF_FLAGS = 6, 7, 8
_DIRECT = 1
"""The program's answer is what happens to the packet."""
_FILTER_HANDLE = 1
_PRIORITIES = {0x0800: 1, 0x86DD: 2}
_RECEIVE_BYTES = 1 << 16
_MESSAGES_AT_ONCE = 64
_SECONDS_MAX = 5.0


def create_map(kind: int, key_bytes: int, value_bytes: int, entries: int, flags: int = 0) -> int:
    """A file descriptor; OSError."""
    return _bpf(_MAP_CREATE, struct.pack("=5I", kind, key_bytes, value_bytes, entries, flags))


def update(map: int, key: bytes, value: bytes) -> None:
    """Have the element in the map; OSError."""
    one, other = ctypes.create_string_buffer(key), ctypes.create_string_buffer(value)
    _bpf(_MAP_UPDATE, struct.pack("=IxxxxQQQ", map, ctypes.addressof(one), ctypes.addressof(other), 0))


def delete(map: int, key: bytes) -> None:
    """OSError, FileNotFoundError if it is not there."""
    buffer = ctypes.create_string_buffer(key)
    _bpf(_MAP_DELETE, struct.pack("=IxxxxQ", map, ctypes.addressof(buffer)))


def load(program: bytes) -> int:
    """A file descriptor of a classifier for packets. OSError, with the verifier's last words."""
    code, licence = ctypes.create_string_buffer(program), ctypes.create_string_buffer(_LICENSE)
    head = struct.pack(
        "=IIQQ", _CLASSIFIER, len(program) // 8, ctypes.addressof(code), ctypes.addressof(licence)
    )
    try:
        return _bpf(_PROGRAM_LOAD, head)
    except OSError as error:
        said = ctypes.create_string_buffer(_VERIFIER_LOG_BYTES)
        said_to = struct.pack("=IIQ", 1, _VERIFIER_LOG_BYTES, ctypes.addressof(said))
        try:
            return _bpf(_PROGRAM_LOAD, head + said_to)
        except OSError:
            lines = said.value.decode(errors="replace").splitlines()
            raise OSError(error.errno, f"{os.strerror(error.errno or 0)}: {' / '.join(lines[-4:])}") from None


def _bpf(command: int, attributes: bytes) -> int:
    return _asked(command, attributes)[0]


def _asked(command: int, attributes: bytes) -> tuple[int, bytes]:
    """What the call returned, and the attributes as it left them."""
    number = _SYSCALL.get(platform.machine())
    if number is None:
        raise OSError(f"the BPF system call of {platform.machine()} is not known")
    buffer = ctypes.create_string_buffer(attributes.ljust(_ATTRIBUTES_BYTES, b"\0"), _ATTRIBUTES_BYTES)
    result: int = _libc.syscall(number, command, buffer, _ATTRIBUTES_BYTES)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result, buffer.raw


class Place(NamedTuple):
    """``way``: INGRESS or EGRESS. For packets of this type only."""

    device: int
    way: int
    ether_type: int
    program: int


def place(places: Iterable[Place]) -> None:
    """Have each program at its place in the calling thread's namespace, instead of what was there. No packet
    is lost by that. OSError; devices that are gone are not missed.
    """
    messages: list[bytes] = []
    ready: set[int] = set()
    for device, way, ether_type, program in places:
        if device not in ready:
            ready.add(device)
            kind = attribute(_KIND, b"clsact\0")
            messages.append(_message(_NEW_QDISC, device, _CLSACT_HANDLE, _CLSACT, 0, kind))
        # A type has a priority of its own.
        info = _PRIORITIES[ether_type] << 16 | socket.htons(ether_type)
        options = attribute(_BPF_FD, struct.pack("=I", program)) + attribute(_BPF_NAME, b"gureum\0")
        options += attribute(_BPF_FLAGS, struct.pack("=I", _DIRECT))
        body = attribute(_KIND, b"bpf\0") + attribute(_OPTIONS, options, nested=True)
        messages.append(_message(_NEW_FILTER, device, _FILTER_HANDLE, way, info, body))
    _tell(messages)


def attach(device: int, way: int, programs: Sequence[int]) -> None:
    """Have these programs at this place in the calling thread's namespace, one after the other, and no others
    of this kind. OSError, also where the kernel has no such places.

    Where there were as many before, nothing is waited for.
    """
    kind = _ATTACH_TYPES[way]
    old = [_program(id) for id in _attached(device, kind)]
    try:
        for at, program in enumerate(programs):
            replaced = (_REPLACE, old[at]) if at < len(old) else (0, 0)
            # It may be there already.
            with contextlib.suppress(FileExistsError):
                _bpf(_PROGRAM_ATTACH, struct.pack("=5I", device, program, kind, *replaced))
        for program in old[len(programs) :]:
            _bpf(_PROGRAM_DETACH, struct.pack("=3I", device, program, kind))
    finally:
        for program in old:
            os.close(program)


def unplace(device: int) -> None:
    """Have no program there that was put there by ``place``. OSError."""
    kind = attribute(_KIND, b"clsact\0")
    try:
        _tell([_message(_DELETE_QDISC, device, _CLSACT_HANDLE, _CLSACT, 0, kind, flags=0)])
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):  # none is there
            raise


def _attached(device: int, kind: int) -> list[int]:
    """The identifiers of the programs there, in order."""
    found = (ctypes.c_uint32 * _ATTACHED_MAX)()
    asked = struct.pack("=4IQI", device, kind, 0, 0, ctypes.addressof(found), _ATTACHED_MAX)
    count = struct.unpack_from("=I", _asked(_PROGRAM_QUERY, asked)[1], 24)[0]
    return list(found[:count])


def _program(id: int) -> int:
    return _bpf(_PROGRAM_BY_ID, struct.pack("=I", id))


def _tell(messages: Sequence[bytes]) -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as sock:
        sock.settimeout(_SECONDS_MAX)
        for first in range(0, len(messages), _MESSAGES_AT_ONCE):
            some = messages[first : first + _MESSAGES_AT_ONCE]
            sock.send(b"".join(some))
            for _ in some:
                _acknowledged(sock.recv(_RECEIVE_BYTES))


def _message(
    kind: int, device: int, handle: int, parent: int, info: int, attributes: bytes, flags: int = _CREATE
) -> bytes:
    body = struct.pack("=4xiIII", device, handle, parent, info) + attributes
    return struct.pack("=IHHII", 16 + len(body), kind, _REQUEST | _ACK | flags, 1, 0) + body


def _acknowledged(answer: bytes) -> None:
    kind = struct.unpack_from("=H", answer, 4)[0]
    code = -struct.unpack_from("=i", answer, 16)[0] if kind == _ERROR else 0
    if code not in (0, errno.EEXIST, errno.ENODEV):
        raise OSError(code, os.strerror(code))
