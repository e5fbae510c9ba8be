"""Bounds on what one client may make the gateway hold, parse or wait for."""

from __future__ import annotations

import msgspec

MIB = 1024 * 1024


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Every bound of the gateway. Sizes are in bytes, times in seconds."""

    header_bytes_max: int = 64 * 1024
    """Request line and headers together."""
    headers_max: int = 128
    header_seconds_max: float = 10.0
    """From the first byte of a request to the end of its headers."""
    body_idle_seconds_max: float = 20.0
    """Between two pieces of a body, while the gateway is reading."""
    body_bytes_per_second_min: int = 256
    """A slower body, averaged after ``body_idle_seconds_max``, is cut off."""
    answer_stalled_seconds_max: float = 60.0
    """While a client takes nothing of its answer."""
    keep_alive_seconds: float = 75.0
    connections_max: int = 1024

    body_bytes_max: int = 16 * MIB
    """A body that is held in memory; a streamed one (an S3 object) has no bound here."""
    body_bytes_by_service: dict[str, int] = msgspec.field(
        default_factory=lambda: {"lambda": 72 * MIB, "cloudwatch": 2 * MIB}
    )
    """Lambda takes archives of 50 MB in base64; CloudWatch's CBOR grows a hundredfold when it is decoded."""
    buffered_bytes_max: int = 256 * MIB
    """All bodies that are held in memory at one time."""

    depth_max: int = 64
    """Nesting of a query key, JSON, CBOR or XML document."""
    elements_max: int = 200_000
    """Values in one JSON or XML document, parameters in one form."""

    def body_bytes(self, service: str) -> int:
        return self.body_bytes_by_service.get(service, self.body_bytes_max)
