"""A request as it came, and an answer as it goes."""

from __future__ import annotations

from collections.abc import AsyncIterable, Mapping
from typing import Any, NamedTuple

from gureum.gateway.scalars import InputError

Headers = list[tuple[bytes, bytes]]


class Request:
    """One HTTP request. Text is latin-1, so that what is signed is byte for byte what was sent."""

    __slots__ = (
        "body",
        "duplicates",
        "headers",
        "host",
        "method",
        "query",
        "raw_path",
        "raw_query",
        "source_ip",
    )

    def __init__(self, scope: Mapping[str, Any]) -> None:
        self.method: str = scope["method"]
        self.raw_path: str = scope["raw_path"].decode("latin-1") or "/"
        self.raw_query: bytes = scope["query_string"]
        self.headers: dict[str, str] = {}
        """By lower-case name; the values of a repeated one are joined, and it is in ``duplicates``."""
        self.duplicates: set[str] = set()
        for raw_name, raw_value in scope["headers"]:
            name = raw_name.decode("latin-1")
            value = raw_value.decode("latin-1")
            if name in self.headers:
                self.duplicates.add(name)
                value = f"{self.headers[name]},{value}"
            self.headers[name] = value
        self.host = self.headers.get("host", "")
        client = scope.get("client")
        self.source_ip: str = client[0] if client else ""
        self.query: list[tuple[str, str]] = []
        """Decoded pairs of the query string, without the signature's."""
        self.body = b""

    @property
    def has_form(self) -> bool:
        return self.headers.get("content-type", "").startswith("application/x-www-form-urlencoded")

    @property
    def query_map(self) -> dict[str, str]:
        return dict(self.query)


class Answer(NamedTuple):
    """``body`` is all of it, or a stream of pieces whose length may be in the headers."""

    status: int
    headers: Headers
    body: bytes | AsyncIterable[bytes]


def utf8(latin: str, what: str) -> str:
    """The text of header or path bytes. Raises InputError if it is not UTF-8."""
    try:
        return latin.encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        raise InputError("malformed", f"{what} is not UTF-8") from None
