"""XML output of the ec2, query and rest-xml protocols: a writer per shape, appending text to one list."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from gureum.gateway.call import Fragment
from gureum.gateway.catalogue import Catalogue
from gureum.gateway.scalars import FORMATS, TIME_FORMATS, iso_millis
from gureum.gateway.shapes import Ref, Shape

Write = Callable[[Any, list[str]], None]
"""Appends a value's content, or a member with its tags."""
Format = Callable[[Any], str]

_SPECIAL = re.compile("[&<>\r\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]").search
_ATTRIBUTE_SPECIAL = re.compile('["\n\t]').search
_ILLEGAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def escape(text: str) -> str:
    """Text of an element. What XML 1.0 cannot hold becomes U+FFFD, so that a client can read the rest."""
    if _SPECIAL(text):
        text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\r", "&#xD;")
        text = _ILLEGAL.sub("�", text)
    return text


def escape_attribute(text: str) -> str:
    text = escape(text)
    if _ATTRIBUTE_SPECIAL(text):
        text = text.replace('"', "&quot;").replace("\n", "&#xA;").replace("\t", "&#x9;")
    return text


class XmlPlans:
    """Writers of one service's shapes, each built at its first use."""

    def __init__(self, catalogue: Catalogue, service: str, protocol: str) -> None:
        self._catalogue = catalogue
        self._service = service
        self._ec2 = protocol == "ec2"
        self._structures: dict[str, Write] = {}

    def structure(self, name: str) -> Write:
        """Writes a structure's content, without a tag of its own."""
        found = self._structures.get(name)
        if found is not None:
            return found
        members: dict[str, Write] = {}

        def write(value: Any, out: list[str]) -> None:
            if value.__class__ is Fragment:
                out.append(value.text)
                return
            for key, item in value.items():
                if item is not None:
                    members[key](item, out)

        self._structures[name] = write
        shape = self._catalogue.shape(self._service, name)
        for ref in shape.members:
            members[ref.name] = _nothing if ref.attribute or ref.location else self.member(ref)
        return write

    def member(self, ref: Ref, tag: str = "") -> Write:
        """Writes a member with its tags."""
        tag = tag or ref.wire_name
        if ref.kind == "structure":
            return self._structure_member(ref, tag)
        if ref.kind == "list":
            return self._list_member(ref, tag)
        if ref.kind == "map":
            return self._map_member(ref, tag)
        return _scalar_member(self.formatter(ref), tag)

    def formatter(self, ref: Ref) -> Format:
        if ref.kind == "string":
            return escape
        if ref.kind == "timestamp":
            return TIME_FORMATS.get(ref.time_format, iso_millis)
        return FORMATS[ref.kind]

    def _structure_member(self, ref: Ref, tag: str) -> Write:
        shape = self._catalogue.shape(self._service, ref.shape)
        inner = self.structure(ref.shape)
        attributes = [m for m in shape.members if m.attribute]
        if attributes:
            return self._with_attributes(ref, tag, attributes, inner)
        opening, closing = f"<{tag}>", f"</{tag}>"

        def write(value: Any, out: list[str]) -> None:
            out.append(opening)
            inner(value, out)
            out.append(closing)

        return write

    def _with_attributes(self, ref: Ref, tag: str, attributes: list[Ref], inner: Write) -> Write:
        declaration = (
            f' xmlns:{ref.namespace_prefix}="{ref.namespace}"'
            if ref.namespace_prefix and ref.namespace
            else ""
        )
        formats = [(m.name, m.wire_name, FORMATS.get(m.kind, str)) for m in attributes]

        def write(value: Any, out: list[str]) -> None:
            out.append(f"<{tag}{declaration}")
            for name, wire, formatted in formats:
                if (item := value.get(name)) is not None:
                    out.append(f' {wire}="{escape_attribute(formatted(item))}"')
            out.append(">")
            inner(value, out)
            out.append(f"</{tag}>")

        return write

    def _list_member(self, ref: Ref, tag: str) -> Write:
        element = self._catalogue.shape(self._service, ref.shape).element
        assert element is not None
        if ref.flattened:
            item = self.member(element, element.wire or tag)

            def write_flat(value: Any, out: list[str]) -> None:
                for entry in value:
                    if entry is not None:
                        item(entry, out)

            return write_flat
        item = self.member(element, element.wire or ("item" if self._ec2 else "member"))
        opening, closing = f"<{tag}>", f"</{tag}>"

        def write(value: Any, out: list[str]) -> None:
            out.append(opening)
            for entry in value:
                if entry is not None:
                    item(entry, out)
            out.append(closing)

        return write

    def _map_member(self, ref: Ref, tag: str) -> Write:
        shape: Shape = self._catalogue.shape(self._service, ref.shape)
        assert shape.key is not None
        assert shape.value is not None
        write_key = self.member(shape.key, shape.key.wire or "key")
        write_value = self.member(shape.value, shape.value.wire or "value")
        entry = tag if ref.flattened else "entry"
        opening, closing = ("", "") if ref.flattened else (f"<{tag}>", f"</{tag}>")

        def write(value: Any, out: list[str]) -> None:
            out.append(opening)
            for key, item in value.items():
                if item is None:
                    continue
                out.append(f"<{entry}>")
                write_key(key, out)
                write_value(item, out)
                out.append(f"</{entry}>")
            out.append(closing)

        return write


def _nothing(value: Any, out: list[str]) -> None:
    """A member that is not in the body: a header, or an attribute of the element."""


def _scalar_member(formatted: Format, tag: str) -> Write:
    opening, closing = f"<{tag}>", f"</{tag}>"
    if formatted is escape:

        def write_text(value: Any, out: list[str]) -> None:
            if _SPECIAL(value):
                value = escape(value)
            out.append(f"{opening}{value}{closing}")

        return write_text

    def write(value: Any, out: list[str]) -> None:
        out.append(f"{opening}{formatted(value)}{closing}")

    return write
