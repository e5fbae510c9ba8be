"""Messages between agent and worker: a header of JSON, and bytes. The same at both ends.

    4 bytes length of the header, 4 bytes length of the bytes (big-endian), header, bytes

A request has "id", "op", and the operation's arguments in "with"; its answer the same "id", and "ok" or
"error" with its "kind". Before that, answers with "progress" (0 to 1) may come.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

LENGTHS = struct.Struct(">II")
HEADER_BYTES_MAX = 8 << 20
PAYLOAD_BYTES_MAX = 8 << 20


class Broken(Exception):
    """The other side talks nonsense."""


def encode(header: Mapping[str, Any], payload: bytes = b"") -> bytes:
    text = json.dumps(header, separators=(",", ":")).encode()
    if len(text) > HEADER_BYTES_MAX or len(payload) > PAYLOAD_BYTES_MAX:
        raise Broken(f"a message of {len(text)} and {len(payload)} bytes is too large")
    return LENGTHS.pack(len(text), len(payload)) + text + payload


def lengths(data: bytes) -> tuple[int, int]:
    """The header's and the payload's; Broken if they are over the bounds."""
    header, payload = LENGTHS.unpack(data)
    if header > HEADER_BYTES_MAX or payload > PAYLOAD_BYTES_MAX:
        raise Broken(f"a message of {header} and {payload} bytes is too large")
    return header, payload


def decode(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except ValueError as error:
        raise Broken(f"a message that is not JSON: {text[:80]!r}") from error
    if not isinstance(header, dict):
        raise Broken(f"a message that is no object: {text[:80]!r}")
    return header


def read(stream: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    """The next message, None at the end."""
    start = stream.read(LENGTHS.size)
    if len(start) < LENGTHS.size:
        return None
    header, payload = lengths(start)
    text, data = stream.read(header), stream.read(payload)
    if len(text) < header or len(data) < payload:
        return None
    return decode(text), data
