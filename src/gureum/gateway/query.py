"""Input of the query and ec2 protocols: a form becomes a tree, and a plan per shape reads the tree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import unquote_to_bytes

from gureum.gateway.catalogue import Catalogue
from gureum.gateway.limits import Limits
from gureum.gateway.scalars import PARSERS, InputError, invalid
from gureum.gateway.shapes import Ref, Shape

Tree = dict[str, Any]
"""Parameter names split at their dots; a leaf is a str."""
Parser = Callable[[Any], Any]


def split_form(form: bytes, limits: Limits) -> list[tuple[str, str]]:
    """The decoded pairs of ``application/x-www-form-urlencoded`` bytes."""
    if not form:
        return []
    pieces = form.split(b"&", limits.elements_max)
    if len(pieces) > limits.elements_max:
        raise InputError("malformed", f"more than {limits.elements_max} parameters")
    try:
        return [
            (_decode(name), _decode(value)) for name, _, value in (p.partition(b"=") for p in pieces if p)
        ]
    except UnicodeDecodeError:
        raise InputError("malformed", "a parameter is not UTF-8") from None


def _decode(piece: bytes) -> str:
    if b"+" in piece:
        piece = piece.replace(b"+", b" ")
    if b"%" in piece:
        piece = unquote_to_bytes(piece)
    return piece.decode()


def grow(pairs: list[tuple[str, str]], limits: Limits) -> Tree:
    """The tree of a form's parameters. One that is given twice, or is a value and a prefix, is malformed."""
    root: Tree = {}
    for name, value in pairs:
        if "." not in name:
            if name in root:
                raise InputError("malformed", f"The parameter {name[:100]} is given twice")
            root[name] = value
            continue
        parts = name.split(".", limits.depth_max)
        if len(parts) > limits.depth_max:
            raise InputError("malformed", f"The parameter {name[:100]} is nested too deeply")
        node = root
        for part in parts[:-1]:
            child = node.get(part)
            if child is None:
                child = node[part] = {}
            elif type(child) is str:
                if child:
                    raise InputError("malformed", f"The parameter {name[:100]} has a value and members")
                child = node[part] = {}
            node = child
        if parts[-1] in node:
            raise InputError("malformed", f"The parameter {name[:100]} is given twice")
        node[parts[-1]] = value
    return root


class QueryPlans:
    """Parsers of one service's shapes, each built at its first use."""

    def __init__(self, catalogue: Catalogue, service: str, *, ec2: bool) -> None:
        self._catalogue = catalogue
        self._service = service
        self._ec2 = ec2
        self._structures: dict[str, Parser] = {}

    def structure(self, name: str) -> Parser:
        found = self._structures.get(name)
        if found is not None:
            return found
        members: dict[str, tuple[str, Parser]] = {}
        required: dict[str, str] = {}

        def parse(node: Any) -> dict[str, Any]:
            if type(node) is str:
                if node:
                    raise invalid("A structure is expected, not a value")
                node = {}
            parsed = {}
            for wire, child in node.items():
                member = members.get(wire)
                if member is None:
                    raise InputError("unknown", "", wire)
                try:
                    parsed[member[0]] = member[1](child)
                except InputError as error:
                    raise error.under(wire) from None
            for wanted, wire in required.items():
                if wanted not in parsed:
                    raise InputError("missing", f"{name}.{wanted}", wire)
            return parsed

        self._structures[name] = parse  # before its members: shapes may be recursive
        shape = self._catalogue.shape(self._service, name)
        for ref in shape.members:
            wire = self._member_name(ref)
            if ref.kind == "list" and ref.flattened and not self._ec2:
                element = self._catalogue.shape(self._service, ref.shape).element
                if element is not None and element.wire:
                    wire = element.wire
            members[wire] = (ref.name, self._parser(ref))
            if ref.name in shape.required:
                required[ref.name] = wire
        return parse

    def _member_name(self, ref: Ref) -> str:
        if not self._ec2:
            return ref.wire_name
        if ref.query_name:
            return ref.query_name
        return ref.wire[0].upper() + ref.wire[1:] if ref.wire else ref.name

    def _parser(self, ref: Ref) -> Parser:
        if ref.kind == "structure":
            return self.structure(ref.shape)
        if ref.kind == "list":
            return self._list(ref, self._catalogue.shape(self._service, ref.shape))
        if ref.kind == "map":
            return self._map(ref, self._catalogue.shape(self._service, ref.shape))
        leaf = _leaf(PARSERS.get(ref.kind))
        return _first(leaf) if self._ec2 else leaf

    def _list(self, ref: Ref, shape: Shape) -> Parser:
        element = shape.element
        assert element is not None
        parse_element = self._parser(element)
        wrapper = "" if self._ec2 or ref.flattened else element.wire or "member"

        def parse(node: Any) -> list[Any]:
            if node == "":
                return []
            if wrapper:
                if type(node) is not dict or len(node) != 1 or wrapper not in node:
                    raise invalid(f"A list is expected, as {wrapper}.1")
                node = node[wrapper]
            return [_at(index, parse_element, child) for index, child in _numbered(node)]

        return parse

    def _map(self, ref: Ref, shape: Shape) -> Parser:
        assert shape.key is not None
        assert shape.value is not None
        key_name, value_name = shape.key.wire or "key", shape.value.wire or "value"
        parse_key, parse_value = self._parser(shape.key), self._parser(shape.value)
        wrapper = "" if ref.flattened else "entry"

        def parse(node: Any) -> dict[Any, Any]:
            if node == "":
                return {}
            if wrapper:
                if type(node) is not dict or len(node) != 1 or wrapper not in node:
                    raise invalid(f"A map is expected, as {wrapper}.1.{key_name}")
                node = node[wrapper]
            parsed = {}
            for index, child in _numbered(node):
                if type(child) is not dict or child.keys() - {key_name, value_name} or key_name not in child:
                    raise InputError("invalid", f"{key_name} and {value_name} are expected", str(index))
                value = child.get(value_name, "")
                parsed[_at(index, parse_key, child[key_name])] = _at(index, parse_value, value)
            return parsed

        return parse


def _leaf(convert: Callable[[str], Any] | None) -> Parser:
    if convert is None:

        def parse_text(node: Any) -> Any:
            if type(node) is str:
                return node
            raise invalid("A value is expected, not members")

        return parse_text

    def parse(node: Any) -> Any:
        if type(node) is str:
            return convert(node)
        raise invalid("A value is expected, not members")

    return parse


def _first(leaf: Parser) -> Parser:
    """A value that may also be given as the only element of a list, ``InstanceId.1=i-1``.

    EC2 takes it so, and boto 2 asks for console output in this way.
    """

    def parse(node: Any) -> Any:
        return leaf(node["1"] if type(node) is dict and node.keys() == {"1"} else node)

    return parse


def _at(index: int, parse: Parser, node: Any) -> Any:
    try:
        return parse(node)
    except InputError as error:
        raise error.under(str(index)) from None


def _numbered(node: Any) -> list[tuple[int, Any]]:
    """The children of a list or map, which are named by number, in that order. Gaps are allowed."""
    if type(node) is not dict:
        raise invalid("A list is expected, as .1")
    try:
        numbered = [(int(name), child) for name, child in node.items() if name.isascii() and len(name) < 10]
    except ValueError:
        raise invalid("A list's elements are numbered") from None
    if len(numbered) != len(node) or any(index < 0 for index, _ in numbered):
        raise invalid("A list's elements are numbered")
    numbered.sort(key=lambda pair: pair[0])
    return numbered
