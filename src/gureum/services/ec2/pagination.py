"""Pages: MaxResults and NextToken. A token is opaque to clients; it holds where the page ended."""

from __future__ import annotations

import base64
import binascii
from typing import NamedTuple

from gureum.errors import ApiError
from gureum.services.ec2.faults import invalid_combination, invalid_value
from gureum.services.operation import Input

PAGE_DEFAULT = 1000
"""What a request without MaxResults gets at once; the rest follows by NextToken, as EC2 does."""
_TOKEN_LENGTH_MAX = 1024


class Page(NamedTuple):
    """``after`` is the position that the previous page ended with, "" at the start."""

    limit: int
    after: str


def page(
    input: Input,
    operation: str,
    *,
    ids: str = "",
    low: int = 5,
    high: int = 1000,
    default: int = PAGE_DEFAULT,
) -> Page:
    """The page that a request asks for. ``ids`` names the member that excludes MaxResults."""
    size = input.get("MaxResults")
    token = input.get("NextToken") or ""
    if ids and input.get(ids) and size is not None:
        name = ids[0].lower() + ids[1:].removesuffix("Ids").removesuffix("s")
        raise invalid_combination(f"The parameter {name}sSet cannot be used with the parameter maxResults")
    if size is not None and size < low:
        raise invalid_value(
            f"Value ( {size} ) for parameter maxResults is invalid. Expecting a value greater than {low}."
        )
    if size is not None and size > high:
        raise invalid_value(
            f"Value ( {size} ) for parameter maxResults is invalid. "
            f"Expecting a value smaller than or equal to {high}."
        )
    return Page(size or default, decode(token, operation) if token else "")


def encode(position: str, operation: str) -> str:
    return base64.urlsafe_b64encode(f"1\n{operation}\n{position}".encode()).decode()


def decode(token: str, operation: str) -> str:
    """Raises InvalidNextToken for what is no token of this operation."""
    try:
        if len(token) <= _TOKEN_LENGTH_MAX:
            version, name, position = base64.b64decode(token, b"-_", validate=True).decode().split("\n", 2)
            if version == "1" and name == operation:
                return position
    except (binascii.Error, ValueError):
        pass
    raise ApiError("InvalidNextToken", f"The token '{token[:100]}' is invalid")
