"""What a value is once it has been through a protocol that cannot say everything (an empty list, say)."""

from __future__ import annotations

from typing import Any

from botocore.model import ListShape, MapShape, Shape, StructureShape

DROP = object()


def as_sent(shape: Shape, value: Any, protocol: str, top: bool = True) -> Any:
    """``value`` less what botocore's serialiser does not send in this protocol."""
    location = shape.serialization.get("location")
    if (
        location in ("header", "headers", "querystring")
        and isinstance(shape, ListShape | MapShape)
        and not value
    ):
        return DROP
    if isinstance(shape, StructureShape):
        if shape.is_document_type:
            return value
        kept = {}
        for name, item in value.items():
            sent = as_sent(shape.members[name], item, protocol, top=False)
            if sent is not DROP:
                kept[name] = sent
        return kept if kept or top or protocol not in ("ec2", "query") else DROP
    if isinstance(shape, ListShape):
        items = [as_sent(shape.member, item, protocol, top=False) for item in value]
        items = [item for item in items if item is not DROP]
        absent = protocol == "ec2" or (protocol == "rest-xml" and shape.serialization.get("flattened"))
        if not items and absent:
            return DROP
        return DROP if not items and value and protocol == "query" else items
    if isinstance(shape, MapShape):
        if not value and (
            protocol in ("ec2", "query") or (protocol == "rest-xml" and shape.serialization.get("flattened"))
        ):
            return DROP
        return {key: as_sent(shape.value, item, protocol, top=False) for key, item in value.items()}
    return value


def as_answered(shape: Shape, value: Any, protocol: str) -> Any:
    """``value`` less what XML has no place for: an empty list without an element around it."""
    if isinstance(shape, StructureShape) and not shape.is_document_type:
        kept = {name: as_answered(shape.members[name], item, protocol) for name, item in value.items()}
        return {name: item for name, item in kept.items() if item is not DROP}
    flat = protocol in ("ec2", "query", "rest-xml") and shape.serialization.get("flattened")
    if isinstance(shape, ListShape):
        if flat and not value:
            return DROP
        return [as_answered(shape.member, item, protocol) for item in value]
    if isinstance(shape, MapShape):
        if (flat or shape.serialization.get("location") == "headers") and not value:
            return DROP
        return {key: as_answered(shape.value, item, protocol) for key, item in value.items()}
    return value
