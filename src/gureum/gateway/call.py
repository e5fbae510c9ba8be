"""What the gateway hands to the services, and what it gets from them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import msgspec


class Credential(msgspec.Struct, frozen=True, kw_only=True):
    """An access key as the credential lookup knows it. ``expires`` is in seconds since the epoch."""

    access_key: str
    secret: str
    session_token: str | None = None
    principal: Any = None
    expires: float | None = None


class Call(msgspec.Struct, kw_only=True):
    """One authenticated call.

    ``input`` names members as boto3 does. Timestamps are aware datetimes in UTC, blobs are bytes; the payload
    of a streaming member is a :class:`gureum.gateway.body.Body`. ``caller`` is the credential's principal, or
    None for the few operations that the model lets through unsigned (AssumeRoleWithWebIdentity).
    """

    service: str
    operation: str
    input: dict[str, Any]
    region: str
    request_id: str
    caller: Any
    source_ip: str
    access_key: str = ""


class Fragment:
    """Already serialised XML that stands for the *content* of a structure (without its own tag).

    Made by ``Gateway.fragment`` for one service and shape, spliced wherever that shape may stand.
    """

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"Fragment({len(self.text)} characters)"


Output = Mapping[str, Any] | Fragment | None
CredentialLookup = Callable[[str], Awaitable[Credential | None]]


class Dispatch(Protocol):
    """The services, as the gateway sees them."""

    def __call__(self, call: Call) -> Awaitable[Output]: ...

    def implemented(self, service: str, operation: str) -> bool: ...
