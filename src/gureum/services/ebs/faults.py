"""The errors of the EBS direct APIs: each has a Reason that clients tell apart."""

from __future__ import annotations

from gureum.errors import ApiError, TransportError


def invalid(reason: str, message: str) -> ApiError:
    return ApiError("ValidationException", message, fields={"Reason": reason})


def not_found(id: str) -> ApiError:
    message = f"The snapshot '{id}' does not exist."
    return ApiError("ResourceNotFoundException", message, 404, fields={"Reason": "SNAPSHOT_NOT_FOUND"})


def unreachable(id: str, error: TransportError) -> ApiError:
    """SDKs try again what failed so."""
    return ApiError("InternalServerException", f"The data of '{id}' can't be reached now: {error}", 500)
