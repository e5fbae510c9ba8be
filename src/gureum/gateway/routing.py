"""Which service, and which operation of a REST service, a request is for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

from gureum.gateway.shapes import Route

_S3_ENDPOINT = re.compile(r"(?:\.s3(?:[.-][a-z0-9-]+)?)?\Z")
_LABEL = re.compile(r"\{([^}]+)\}")


def uri_names(uri: str) -> list[str]:
    """The labels of a request URI: ``/{Bucket}/{Key+}`` -> Bucket, Key+."""
    return _LABEL.findall(uri)


class _Pattern:
    """A compiled route. ``weight`` orders the routes that fit: the most demanding one is meant."""

    __slots__ = ("labels", "literals", "match", "operation", "required_headers", "required_query", "weight")

    def __init__(self, route: Route) -> None:
        path, _, query = route.uri.partition("?")
        self.operation = route.operation
        self.labels = [name.rstrip("+") for name in uri_names(path)]
        self.match = _expression(path).match
        pairs = [piece.partition("=") for piece in query.split("&") if piece]
        self.literals = {name: value for name, _, value in pairs}
        self.required_query = [name for name in route.required_query if name not in self.literals]
        self.required_headers = list(route.required_headers)
        literal_length = len(_LABEL.sub("", path))
        self.weight = (
            -path.count("+}"), literal_length, len(self.literals), len(self.required_query),
            len(self.required_headers), not route.deprecated,
        )  # fmt: skip

    def has_literals(self, query: Mapping[str, str]) -> bool:
        return all(name in query and value in ("", query[name]) for name, value in self.literals.items())

    def has_required(self, query: Mapping[str, str], headers: Mapping[str, str]) -> bool:
        return all(name in query for name in self.required_query) and all(
            name in headers for name in self.required_headers
        )


def _expression(path: str) -> re.Pattern[str]:
    expression = ""
    if not path.endswith("+}"):
        path = path.rstrip("/")
    for piece in re.split(r"(\{[^}]+\})", path):
        if not piece.startswith("{"):
            expression += re.escape(piece)
        else:
            expression += "(.+)" if piece.endswith("+}") else "([^/]+)"
    # A trailing slash is neither here nor there, except in an S3 key, which .+ takes whole.
    return re.compile(expression + ("" if path.endswith("+}") else "/?") + r"\Z", re.DOTALL)


class Router:
    """The routes of one REST service."""

    def __init__(self, routes: tuple[Route, ...]) -> None:
        self._by_method: dict[str, list[_Pattern]] = {}
        for route in routes:
            self._by_method.setdefault(route.method, []).append(_Pattern(route))
        for patterns in self._by_method.values():
            patterns.sort(key=lambda p: p.weight, reverse=True)

    def find(
        self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str]
    ) -> tuple[str, dict[str, str]] | None:
        """The operation and its URI labels, unquoted but not decoded. ``path`` is as sent.

        A request that names an operation's parameter (``?attributes``) but lacks something it requires goes
        to it all the same, which then says what is missing. The x-id that some SDKs send decides among
        those that fit.
        """
        named = query.get("x-id")
        fitting = lacking = None
        for pattern in self._by_method.get(method, ()):
            match = pattern.match(path)
            if match is None or not pattern.has_literals(query):
                continue
            if not pattern.has_required(query, headers):
                lacking = lacking or (pattern, match)
            elif lacking is not None and len(lacking[0].literals) > len(pattern.literals):
                break
            elif named is None or named == pattern.operation:
                return pattern.operation, _labels(pattern, match)
            else:
                fitting = fitting or (pattern, match)
        found = fitting or lacking
        return None if found is None else (found[0].operation, _labels(*found))


def _labels(pattern: _Pattern, match: re.Match[str]) -> dict[str, str]:
    return {
        name: unquote_to_bytes(value.encode("latin-1")).decode("latin-1")
        for name, value in zip(pattern.labels, match.groups(), strict=True)
    }


def virtual_bucket(host: str, domains: tuple[str, ...]) -> str:
    """The bucket that is a label of the host (``bucket.s3.us-east-1.localhost:4566``), or ""."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    name = name.lower()
    for domain in domains:
        if name.endswith("." + domain):
            match = _S3_ENDPOINT.search("." + name.removesuffix("." + domain))
            assert match is not None
            return match.string[1 : match.start()]
    return ""
