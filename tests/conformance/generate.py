"""Values for shapes of a service model: seeded, with the edge cases that protocols get wrong."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

from botocore.model import ListShape, MapShape, Shape, StructureShape

EDGE_TEXTS = (
    "", "plain", "a b+c&d=e", "<tag attr=\"x\">&amp;</tag>", "ünïcødé 구름 ☁ 🌩", "%41%2F", "line\nbreak\ttab",
    " spaces around ", "{\"json\": [1]}", "0", "true", "x" * 300,
)  # fmt: skip
HEADER_TEXTS = ("plain", "with space", "a=b;c", "%41%2F", "x" * 200)
INTEGERS = (0, 1, -1, 2**31 - 1, -(2**31), 65536)
LONGS = (*INTEGERS, 2**63 - 1, -(2**63), 2**53 + 1)
FLOATS = (0.0, 1.0, -1.5, 0.25, 1048576.5, 2.0**-20)
BLOBS = (b"", b"\x00\x01\xff\xfe", b"plain text", bytes(range(256)), "구름".encode())
DEPTH_MAX = 4


class Generator:
    """``style`` is "full" (every member), "sparse" (required ones and some more) or "edge" (empty things)."""

    def __init__(self, seed: str, style: str) -> None:
        self.random = random.Random(f"{seed}/{style}")
        self.style = style

    def structure(self, shape: StructureShape, skip: frozenset[str] = frozenset()) -> dict[str, Any]:
        names = [name for name in shape.members if name not in skip]
        if shape.is_tagged_union and names:
            names = [self.random.choice(names)]
        elif self.style != "full":
            names = [n for n in names if n in shape.required_members or self.random.random() < 0.6]
        return {name: self._member(shape, name, 0) for name in names}

    def _member(self, shape: StructureShape, name: str, depth: int) -> Any:
        """A required member is never empty: most protocols cannot say so."""
        value = self.value(shape.members[name], depth)
        if name in shape.required_members and not _says_something(value):
            return Generator(f"{self.random.random()}", "full").value(shape.members[name], depth)
        return value

    def value(self, shape: Shape, depth: int = 0) -> Any:
        if shape.serialization.get("hostLabel"):
            return "123456789012"
        location = shape.serialization.get("location")
        if location in ("header", "headers", "uri", "statusCode"):
            return self._located(shape, location)
        if isinstance(shape, StructureShape):
            return self._nested(shape, depth)
        if isinstance(shape, ListShape):
            count = 0 if self._empty(depth) else self.random.choice((1, 2, 3))
            return [self.value(shape.member, depth + 1) for _ in range(count)]
        if isinstance(shape, MapShape):
            count = 0 if self._empty(depth) else self.random.choice((1, 2))
            keys = [f"k{i} é&<" for i in range(count)]
            return {key: self.value(shape.value, depth + 1) for key in keys}
        return self._scalar(shape)

    def _nested(self, shape: StructureShape, depth: int) -> Any:
        if shape.is_document_type:
            return {"any": [1, "two", None, {"three": 3.5}]}
        if shape.is_tagged_union:
            name = next(iter(shape.members)) if depth > DEPTH_MAX else self.random.choice(list(shape.members))
            return {name: self.value(shape.members[name], depth + 1)}
        names = list(shape.members)
        if depth > DEPTH_MAX:
            names = [n for n in names if n in shape.required_members] or [
                n for n in names if shape.members[n].type_name not in ("structure", "list", "map")
            ]
        elif self.style != "full":
            names = [n for n in names if n in shape.required_members or self.random.random() < 0.5]
        return {name: self._member(shape, name, depth + 1) for name in names}

    def _empty(self, depth: int) -> bool:
        return depth > DEPTH_MAX + 4 or (self.style == "edge" and self.random.random() < 0.4)

    def _located(self, shape: Shape, location: str) -> Any:
        if location == "statusCode":
            return self.random.choice((200, 202))
        if location == "headers":
            return {"key-one": "value one", "key-two": "2"}
        if shape.type_name == "string":
            return self.random.choice(HEADER_TEXTS) if location == "header" else "a b/c+%é구"
        if shape.type_name == "timestamp":
            return self.moment().replace(microsecond=0)
        if isinstance(shape, ListShape):
            return ["one", 'two, "quoted"'] if shape.member.type_name == "string" else []
        return self._scalar(shape)

    def moment(self) -> datetime:
        seconds = self.random.choice((0, 1, 951782400, 1767225599, 4102444800, 1_000_000_000))
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(
            seconds=seconds, milliseconds=self.random.choice((0, 1, 999, 120))
        )

    def _scalar(self, shape: Shape) -> Any:
        kind = shape.type_name
        choose = self.random.choice
        if kind == "string":
            return choose(EDGE_TEXTS)
        if kind == "boolean":
            return choose((True, False))
        if kind == "integer":
            return choose(INTEGERS)
        if kind == "long":
            return choose(LONGS)
        if kind in ("float", "double"):
            return choose(FLOATS)
        if kind == "timestamp":
            whole = shape.serialization.get("timestampFormat") == "rfc822"
            return self.moment().replace(microsecond=0) if whole else self.moment()
        if kind == "blob":
            return choose(BLOBS)
        raise AssertionError(f"no values for {kind}")


def _says_something(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_says_something(item) for item in value.values())
    return not isinstance(value, list) or any(_says_something(item) for item in value)
