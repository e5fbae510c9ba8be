"""Outbound event streams: ``application/vnd.amazon.eventstream`` frames.

A frame is its length, that of its headers, a CRC of those eight bytes, headers, payload, and a CRC of all.
"""

from __future__ import annotations

import struct
import zlib

CONTENT_TYPE = b"application/vnd.amazon.eventstream"
_STRING = 7
FRAME_BYTES_MAX = 16 * 1024 * 1024


def frame(headers: dict[str, str], payload: bytes) -> bytes:
    encoded = b"".join(_header(name, value) for name, value in headers.items())
    total = 16 + len(encoded) + len(payload)
    if total > FRAME_BYTES_MAX:
        raise ValueError(f"an event of {total} bytes is larger than {FRAME_BYTES_MAX}")
    prelude = struct.pack("!II", total, len(encoded))
    message = b"".join((prelude, struct.pack("!I", zlib.crc32(prelude)), encoded, payload))
    return message + struct.pack("!I", zlib.crc32(message))


def _header(name: str, value: str) -> bytes:
    raw_name, raw_value = name.encode(), value.encode()
    return (
        struct.pack("!B", len(raw_name)) + raw_name + struct.pack("!BH", _STRING, len(raw_value)) + raw_value
    )


def event(kind: str, content_type: str, payload: bytes, headers: dict[str, str]) -> bytes:
    named = {":message-type": "event", ":event-type": kind}
    if content_type:
        named[":content-type"] = content_type
    return frame({**named, **headers}, payload)


def exception(kind: str, content_type: str, payload: bytes) -> bytes:
    """An error of the model that ends a stream."""
    return frame(
        {":message-type": "exception", ":exception-type": kind, ":content-type": content_type}, payload
    )


def error(code: str, message: str) -> bytes:
    """An error that the model does not have."""
    return frame({":message-type": "error", ":error-code": code, ":error-message": message}, b"")
