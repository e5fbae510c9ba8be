"""Tokens of blocks and pages: signed by the cloud, so that there is nothing to remember.

block token    base64 of: expiry (4 bytes, Unix time) and 28 bytes of the HMAC over snapshot, index, expiry
page token     base64 of: the index where the next page begins (8 bytes), and 24 bytes of the HMAC over it
               and the snapshots that are listed
"""

from __future__ import annotations

import base64
import binascii
import hmac

from gureum.services.ebs.faults import invalid
from gureum.services.operation import Context

VALID_SECONDS = 7 * 24 * 3600
_EXPIRY_BYTES = 4
_INDEX_BYTES = 8
_BLOCK_MAC_BYTES = 28
_PAGE_MAC_BYTES = 24


def expiry(ctx: Context) -> int:
    """When tokens that are given now end, in Unix time."""
    return int(ctx.env.now()) + VALID_SECONDS


def block_token(ctx: Context, snapshot: str, index: int, expires: int) -> str:
    head = expires.to_bytes(_EXPIRY_BYTES, "big")
    return _text(head + _mac(ctx, f"block/{snapshot}/{index}/{expires}")[:_BLOCK_MAC_BYTES])


def check_block_token(ctx: Context, token: str, snapshot: str, index: int) -> None:
    """Raises ValidationException unless this cloud gave the token for this block, and not too long ago."""
    raw = _bytes(token)
    expires = int.from_bytes(raw[:_EXPIRY_BYTES], "big")
    expected = _mac(ctx, f"block/{snapshot}/{index}/{expires}")[:_BLOCK_MAC_BYTES]
    if not hmac.compare_digest(raw[_EXPIRY_BYTES:], expected):
        raise invalid("INVALID_BLOCK_TOKEN", f"The block token is not one of block {index} of '{snapshot}'.")
    if expires < ctx.env.now():
        raise invalid("INVALID_BLOCK_TOKEN", "The block token has expired: list the blocks again.")


def page_token(ctx: Context, listed: str, index: int) -> str:
    head = index.to_bytes(_INDEX_BYTES, "big")
    return _text(head + _mac(ctx, f"page/{listed}/{index}")[:_PAGE_MAC_BYTES])


def page_index(ctx: Context, listed: str, token: str) -> int:
    """Where the page begins. Raises ValidationException for what is no token of this listing."""
    raw = _bytes(token)
    index = int.from_bytes(raw[:_INDEX_BYTES], "big")
    if not hmac.compare_digest(raw[_INDEX_BYTES:], _mac(ctx, f"page/{listed}/{index}")[:_PAGE_MAC_BYTES]):
        raise invalid("INVALID_PAGE_TOKEN", "The page token is not one of this listing.")
    return index


def _mac(ctx: Context, text: str) -> bytes:
    return ctx.keys.sign(text.encode())


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _bytes(token: str) -> bytes:
    """Nothing, which no token begins with, for what is no base64."""
    try:
        return base64.b64decode(token, validate=True)
    except (binascii.Error, ValueError):
        return b""
