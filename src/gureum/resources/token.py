"""Client tokens: what makes a repeated request harmless."""

from __future__ import annotations

from typing import ClassVar

from gureum.resources.record import Record


class ClientToken(Record, frozen=True, kw_only=True, omit_defaults=True):
    """The answer already given to a client token.

    ``id`` is ``account/service/operation/token``. ``request`` is a hash of the input without the token: the
    same token with another input is an IdempotentParameterMismatch. ``output`` is the answer, as JSON.
    """

    request: str
    output: bytes
    expires: float

    kind: ClassVar[str] = "client-token"
