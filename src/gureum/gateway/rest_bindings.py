"""Members of REST operations outside of the body: path labels, query parameters, headers, the status."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from typing import Any

from gureum.gateway.catalogue import Catalogue
from gureum.gateway.message import Headers, Request, utf8
from gureum.gateway.scalars import FORMATS, PARSERS, TIME_FORMATS, InputError, http_date
from gureum.gateway.shapes import Ref, Shape

_LIST_ITEM = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"|([^,]*?))\s*(?:,|\Z)')
_HEADER_ILLEGAL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

Parse = Callable[[str], Any]


class Bindings:
    """Where an operation's input members are."""

    def __init__(self, catalogue: Catalogue, service: str, shape: Shape) -> None:
        self._shape = shape
        self.payload: Ref | None = shape.member(shape.payload) if shape.payload else None
        self.streams = self.payload is not None and self.payload.streaming and self.payload.kind == "blob"
        self.has_body = any(not m.location for m in shape.members) and self.payload is None
        self._labels: list[tuple[str, str, Parse]] = []
        self._queries: list[tuple[str, str, bool, Parse]] = []
        self._query_map: tuple[str, bool] | None = None
        self._headers: list[tuple[str, str, bool, Parse]] = []
        self._prefixes: list[tuple[str, str]] = []
        for ref in shape.members:
            if ref.location:
                self._bind(catalogue, service, ref)

    def _bind(self, catalogue: Catalogue, service: str, ref: Ref) -> None:
        wire, several = ref.wire_name, ref.kind == "list"
        kind = ref.kind
        if several:
            element = catalogue.shape(service, ref.shape).element
            assert element is not None
            kind = element.kind
        parse = PARSERS.get(kind, str)
        if ref.location == "uri":
            self._labels.append((wire, ref.name, parse))
        elif ref.location == "querystring" and ref.kind == "map":
            value = catalogue.shape(service, ref.shape).value
            self._query_map = (ref.name, value is not None and value.kind == "list")
        elif ref.location == "querystring":
            self._queries.append((wire, ref.name, several, parse))
        elif ref.location == "header":
            self._headers.append((wire.lower(), ref.name, several, parse))
        elif ref.location == "headers":
            self._prefixes.append((ref.wire.lower(), ref.name))

    def read(self, request: Request, labels: dict[str, str]) -> dict[str, Any]:
        parsed: dict[str, Any] = {}
        for wire, name, parse in self._labels:
            if wire in labels:
                parsed[name] = _at(wire, parse, labels[wire])
        if request.query:
            self._read_query(request, parsed)
        headers = request.headers
        for wire, name, several, parse in self._headers:
            if wire in headers:
                text = utf8(headers[wire], f"The header {wire}")
                parsed[name] = (
                    [_at(wire, parse, t) for t in split_list(text)] if several else _at(wire, parse, text)
                )
        for prefix, name in self._prefixes:
            found = {
                k[len(prefix) :]: utf8(v, f"The header {k}")
                for k, v in headers.items()
                if k.startswith(prefix)
            }
            if found:
                parsed[name] = found
        return parsed

    def _read_query(self, request: Request, parsed: dict[str, Any]) -> None:
        by_name: dict[str, list[str]] = {}
        for key, value in request.query:
            by_name.setdefault(key, []).append(value)
        for wire, name, several, parse in self._queries:
            values = by_name.pop(wire, None)
            if values is None:
                continue
            if several:
                parsed[name] = [_at(wire, parse, value) for value in values]
            elif len(values) > 1:
                raise InputError("invalid", "The parameter is given twice", wire)
            else:
                parsed[name] = _at(wire, parse, values[0])
        if self._query_map is not None and by_name:
            name, lists = self._query_map
            parsed[name] = by_name if lists else {key: values[0] for key, values in by_name.items()}

    def check_required(self, parsed: dict[str, Any]) -> None:
        for name in self._shape.required:
            if name not in parsed:
                ref = self._shape.member(name)
                raise InputError("missing", "", ref.wire_name if ref else name)


def _at(wire: str, parse: Parse, text: str) -> Any:
    try:
        return parse(text)
    except InputError as error:
        raise error.under(wire) from None


def split_list(text: str) -> list[str]:
    """A header's list: separated by commas, items with commas in quotes."""
    items = []
    position = 0
    while position < len(text):
        match = _LIST_ITEM.match(text, position)
        if match is None:
            raise InputError("invalid", "The header is not a list")
        quoted, plain = match.groups()
        items.append(plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted))
        position = match.end()
    return items


class OutputBindings:
    """Where an output's (or error's) members go."""

    def __init__(self, catalogue: Catalogue, service: str, shape: Shape) -> None:
        self.shape = shape
        self.payload: Ref | None = shape.member(shape.payload) if shape.payload else None
        self.has_body = any(not m.location for m in shape.members)
        self._headers: list[tuple[str, bytes, Callable[[Any], str]]] = []
        self._prefixes: list[tuple[str, str]] = []
        self._status = ""
        for ref in shape.members:
            if ref.location == "header":
                self._headers.append(
                    (ref.name, ref.wire_name.lower().encode(), _header_format(catalogue, service, ref))
                )
            elif ref.location == "headers":
                self._prefixes.append((ref.name, ref.wire.lower()))
            elif ref.location == "statusCode":
                self._status = ref.name

    def write(self, output: Any, headers: Headers, status: int) -> int:
        """Appends the header members of ``output``; answers the status, its own if it has one."""
        for name, wire, formatted in self._headers:
            if (value := output.get(name)) is not None:
                headers.append((wire, header_value(formatted(value))))
        for name, prefix in self._prefixes:
            for key, text in (output.get(name) or {}).items():
                headers.append((header_value(prefix + key), header_value(text)))
        if self._status and output.get(self._status) is not None:
            return int(output[self._status])
        return status


def _header_format(catalogue: Catalogue, service: str, ref: Ref) -> Callable[[Any], str]:
    if ref.kind == "timestamp":
        return TIME_FORMATS[ref.time_format] if ref.time_format else http_date
    if ref.kind == "list":
        element = catalogue.shape(service, ref.shape).element
        assert element is not None
        formatted = _header_format(catalogue, service, element)
        return lambda values: ",".join(formatted(value) for value in values)
    return FORMATS.get(ref.kind, str)


def header_value(text: str) -> bytes:
    """A header's bytes; what is not ASCII as RFC 2047 has it, which is what S3 does with metadata."""
    if _HEADER_ILLEGAL.search(text):
        raise ValueError("a header's value has control characters")
    if text.isascii():
        return text.encode("ascii")
    return b"=?UTF-8?B?" + base64.b64encode(text.encode()) + b"?="
