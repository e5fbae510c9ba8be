"""XML request bodies of rest-xml. expat reads them into small nodes; a document type is refused outright."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from xml.parsers import expat

from gureum.gateway.catalogue import Catalogue
from gureum.gateway.limits import Limits
from gureum.gateway.scalars import PARSERS, InputError, invalid
from gureum.gateway.shapes import Ref, Shape


class Node:
    """An element: its name without prefix, attributes as sent, children, and text."""

    __slots__ = ("attributes", "children", "name", "text")

    def __init__(self, name: str, attributes: dict[str, str]) -> None:
        self.name = name
        self.attributes = attributes
        self.children: list[Node] = []
        self.text = ""


def read_document(body: bytes, limits: Limits) -> Node:
    """The root of a document. Raises InputError for one that is malformed, has a DTD or is over a limit."""
    builder = _Builder(limits)
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.characters
    parser.StartDoctypeDeclHandler = builder.refuse
    try:
        parser.Parse(body, True)
    except expat.ExpatError as error:
        raise InputError("malformed", f"The XML you provided was not well-formed ({error})") from None
    except (UnicodeDecodeError, LookupError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError("malformed", "The XML you provided is in an unknown encoding") from None
    root = builder.root
    if root is None:
        raise InputError("malformed", "The XML you provided has no element")
    return root


class _Builder:
    def __init__(self, limits: Limits) -> None:
        self.root: Node | None = None
        self._open: list[Node] = []
        self._limits = limits
        self._left = limits.elements_max

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._left -= 1 + len(attributes)
        if self._left < 0 or len(self._open) >= self._limits.depth_max:
            raise InputError(
                "malformed", "The XML you provided is nested too deeply or has too many elements"
            )
        node = Node(name.rpartition(":")[2], attributes)
        if self._open:
            self._open[-1].children.append(node)
        else:
            self.root = node
        self._open.append(node)

    def end(self, _name: str) -> None:
        self._open.pop()

    def characters(self, text: str) -> None:
        self._open[-1].text += text

    def refuse(self, *_: Any) -> None:
        raise InputError("malformed", "A document type is not allowed in XML")


Parser = Callable[[Node], Any]
Collect = Callable[[dict[str, Any], Node], None]
"""Puts an element's value into the structure that is being read."""


class XmlInputs:
    """Parsers of one service's shapes, each built at its first use."""

    def __init__(self, catalogue: Catalogue, service: str) -> None:
        self._catalogue = catalogue
        self._service = service
        self._structures: dict[str, Parser] = {}

    def structure(self, name: str) -> Parser:
        found = self._structures.get(name)
        if found is not None:
            return found
        members: dict[str, Collect] = {}
        attributes: dict[str, tuple[str, Callable[[str], Any]]] = {}
        required: list[tuple[str, str]] = []

        def parse(node: Node) -> dict[str, Any]:
            parsed: dict[str, Any] = {}
            for child in node.children:
                collect = members.get(child.name)
                if collect is not None:
                    try:
                        collect(parsed, child)
                    except InputError as error:
                        raise error.under(child.name) from None
            for wire, (member, convert) in attributes.items():
                if (text := node.attributes.get(wire)) is not None:
                    parsed[member] = convert(text)
            for member, wire in required:
                if member not in parsed:
                    raise InputError("missing", "", wire)
            return parsed

        self._structures[name] = parse
        shape = self._catalogue.shape(self._service, name)
        for ref in shape.members:
            if ref.attribute:
                attributes[ref.wire_name] = (ref.name, PARSERS.get(ref.kind, str))
            elif not ref.location:
                wire, collect = self._member(ref)
                members[wire] = collect
        for name_ in shape.required:
            required_ref = shape.member(name_)
            if required_ref is not None and not required_ref.location:
                required.append((name_, required_ref.wire_name))
        return parse

    def _member(self, ref: Ref) -> tuple[str, Collect]:
        name = ref.name
        if ref.flattened and ref.kind == "list":
            element = self._catalogue.shape(self._service, ref.shape).element
            assert element is not None
            parse_element = self.parser(element)

            def append(parsed: dict[str, Any], node: Node) -> None:
                parsed.setdefault(name, []).append(parse_element(node))

            # botocore sends the member's name, and so do the others for the models that are used here.
            return ref.wire_name, append
        if ref.flattened and ref.kind == "map":
            entry = self._entry(self._catalogue.shape(self._service, ref.shape))

            def put(parsed: dict[str, Any], node: Node) -> None:
                key, value = entry(node)
                parsed.setdefault(name, {})[key] = value

            return ref.wire_name, put
        parse = self.parser(ref)

        def once(parsed: dict[str, Any], node: Node) -> None:
            if name in parsed:
                raise invalid("The element is given twice")
            parsed[name] = parse(node)

        return ref.wire_name, once

    def parser(self, ref: Ref) -> Parser:
        if ref.kind == "structure":
            return self.structure(ref.shape)
        if ref.kind == "list":
            return self._list(self._catalogue.shape(self._service, ref.shape))
        if ref.kind == "map":
            entry = self._entry(self._catalogue.shape(self._service, ref.shape))
            return lambda node: dict(entry(child) for child in node.children)
        return _leaf(PARSERS.get(ref.kind))

    def _list(self, shape: Shape) -> Parser:
        assert shape.element is not None
        parse_element = self.parser(shape.element)
        return lambda node: [parse_element(child) for child in node.children]

    def _entry(self, shape: Shape) -> Callable[[Node], tuple[Any, Any]]:
        assert shape.key is not None
        assert shape.value is not None
        key_name, value_name = shape.key.wire or "key", shape.value.wire or "value"
        parse_key, parse_value = self.parser(shape.key), self.parser(shape.value)

        def entry(node: Node) -> tuple[Any, Any]:
            children = {child.name: child for child in node.children}
            if key_name not in children or value_name not in children:
                raise invalid(f"{key_name} and {value_name} are expected")
            return parse_key(children[key_name]), parse_value(children[value_name])

        return entry


def _leaf(convert: Callable[[str], Any] | None) -> Parser:
    def parse(node: Node) -> Any:
        if node.children:
            raise invalid("A value is expected, not elements")
        return node.text if convert is None else convert(node.text.strip())

    return parse
