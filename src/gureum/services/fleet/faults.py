"""The errors of the Fleet API."""

from __future__ import annotations

from collections.abc import Sequence

from gureum.errors import ApiError

SHOWN_MAX = 20


def not_found(host: str) -> ApiError:
    return ApiError("ResourceNotFoundException", f"There is no host {host!r}. See DescribeHosts.")


def invalid(message: str) -> ApiError:
    return ApiError("InvalidParameterValueException", message)


def wrong_state(message: str, ids: Sequence[str] = ()) -> ApiError:
    """``ids``: what is in the way."""
    return ApiError("InvalidHostStateException", message, fields={"ResourceIds": list(ids)} if ids else None)


def shown(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - SHOWN_MAX} more" if len(ids) > SHOWN_MAX else ""
    return ", ".join(ids[:SHOWN_MAX]) + more
