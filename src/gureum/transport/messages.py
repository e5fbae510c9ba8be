"""What a host link carries, and how it looks on the wire: a four-byte length, then MessagePack."""

from __future__ import annotations

import msgspec

from gureum.errors import TransportError
from gureum.hostspec import HostReport, HostSpec

MESSAGE_BYTES_MAX = 32 * 1024 * 1024


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag="hello"):
    """The agent's first message. ``instance`` differs for each start of an agent."""

    cloud: str
    host: str
    zone: str
    instance: str


class Spec(msgspec.Struct, frozen=True, tag="spec"):
    spec: HostSpec


class Report(msgspec.Struct, frozen=True, tag="report"):
    report: HostReport


class Call(msgspec.Struct, frozen=True, kw_only=True, tag="call"):
    """A question from the manager, answered by the Reply of the same ``id``."""

    id: int
    method: str
    machine: str = ""
    max_bytes: int = 0


class Reply(msgspec.Struct, frozen=True, kw_only=True, tag="reply"):
    """``error`` is set if the call failed."""

    id: int
    data: bytes = b""
    error: str = ""


Message = Hello | Spec | Report | Call | Reply

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """One frame. Raises TransportError if the message is larger than MESSAGE_BYTES_MAX."""
    body = _encoder.encode(message)
    if len(body) > MESSAGE_BYTES_MAX:
        raise TransportError(f"a message of {len(body)} bytes is over the bound of {MESSAGE_BYTES_MAX}")
    return len(body).to_bytes(4, "big") + body


def decode(body: bytes) -> Message:
    """The message of one frame's body. Raises TransportError."""
    try:
        return _decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise TransportError(f"not a message: {error}") from error
