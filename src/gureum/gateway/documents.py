"""Documents of JSON and CBOR: plans between boto3's members and what those formats hold.

A reader takes a decoded document and gives boto3 members; a writer the other way round. A writer of None
means that a value is written as it is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec

from gureum.gateway.catalogue import Catalogue
from gureum.gateway.limits import Limits
from gureum.gateway.scalars import (
    TIME_FORMATS,
    InputError,
    as_datetime,
    check_integer,
    check_long,
    epoch,
    format_blob,
    from_epoch,
    invalid,
    parse_blob,
    parse_timestamp,
    special_float,
)
from gureum.gateway.shapes import Ref

Read = Callable[[Any], Any]
Write = Callable[[Any], Any]

_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"')
_CBOR_TAGS = (
    0, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000, 55799,
)  # fmt: skip
"""All that cbor2 knows but an epoch timestamp: references, patterns, huge numbers have no place here."""


def _values(body: bytes) -> int:
    return body.count(b",") + body.count(b"[") + body.count(b"{")


def decode_json(body: bytes, limits: Limits) -> Any:
    """Raises InputError for what is not JSON, or is over the limits of depth and size."""
    if _values(body) > limits.elements_max and _values(_STRINGS.sub(b"", body)) > limits.elements_max:
        raise InputError("malformed", f"The document has more than {limits.elements_max} values")
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InputError("malformed", f"The body is not JSON: {error}") from None
    check_depth(document, limits)
    return document


def check_depth(document: Any, limits: Limits) -> None:
    level = [document]
    for _ in range(limits.depth_max):
        containers = [
            v.values() if type(v) is dict else v for v in level if type(v) is dict or type(v) is list
        ]
        if not containers:
            return
        level = [child for container in containers for child in container]
    raise InputError("malformed", f"The document is nested more than {limits.depth_max} deep")


def decode_cbor(body: bytes, limits: Limits) -> Any:
    """Raises InputError for what is not CBOR as the rpc-v2-cbor protocol has it."""
    import cbor2  # a megabyte that only CloudWatch needs

    try:
        return cbor2.loads(
            body,
            max_depth=limits.depth_max,
            semantic_decoders=dict.fromkeys(_CBOR_TAGS, _refuse_tag),
            tag_hook=_refuse_tag,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
        )
    except (cbor2.CBORError, RecursionError, ValueError, OverflowError, TypeError) as error:
        raise InputError("malformed", f"The body is not CBOR: {error}") from None


def _refuse_tag(*_: Any) -> Any:
    raise ValueError("a tag other than 1")


def encode_json(document: Any) -> bytes:
    return msgspec.json.encode(document)


def encode_cbor(document: Any) -> bytes:
    import cbor2

    return cbor2.dumps(document)


class Format:
    """How one format holds the simple types."""

    def __init__(self, *, cbor: bool) -> None:
        self.cbor = cbor
        self.reads: dict[str, Read] = {
            "string": _read_string,
            "integer": lambda v: check_integer(_whole(v)),
            "long": lambda v: check_long(_whole(v)),
            "float": _read_float,
            "double": _read_float,
            "boolean": _read_boolean,
            "blob": _read_bytes if cbor else _read_base64,
            "timestamp": _read_timestamp,
        }
        self.writes: dict[str, Write | None] = {
            "string": _write_string,
            "integer": int,
            "long": int,
            "float": float if cbor else _write_float,
            "double": float if cbor else _write_float,
            "boolean": bool,
            "blob": bytes if cbor else format_blob,
        }

    def write_timestamp(self, time_format: str) -> Write:
        if not self.cbor:
            return TIME_FORMATS[time_format] if time_format in ("iso8601", "rfc822") else epoch
        from cbor2 import CBORTag

        return lambda value: CBORTag(1, epoch(value))


def _read_string(value: Any) -> str:
    if type(value) is str:
        return value
    raise invalid("A string is expected")


def _read_boolean(value: Any) -> bool:
    if type(value) is bool:
        return value
    raise invalid("A boolean is expected")


def _whole(value: Any) -> int:
    if type(value) is int:
        return value
    if type(value) is float and value.is_integer():
        return int(value)
    raise invalid("An integer is expected")


def _read_float(value: Any) -> float:
    if type(value) is float:
        return value
    if type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise invalid("The number is too large") from None
    if type(value) is str:
        return special_float(value)
    raise invalid("A number is expected")


def _read_base64(value: Any) -> bytes:
    return parse_blob(_read_string(value))


def _read_bytes(value: Any) -> bytes:
    if type(value) is bytes:
        return value
    raise invalid("Bytes are expected")


def _read_timestamp(value: Any) -> datetime:
    if isinstance(value, datetime):
        return as_datetime(value)
    if type(value) is str:
        return parse_timestamp(value)
    if type(value) in (int, float):
        try:
            return from_epoch(float(value))
        except OverflowError:
            pass
    raise invalid("A timestamp is expected")


def _write_string(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise TypeError(f"a string is expected in the output, not {type(value).__name__}")


def _write_float(value: Any) -> float | str:
    number = float(value)
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


class DocumentPlans:
    """Readers and writers of one service's shapes in one format, each built at its first use."""

    def __init__(self, catalogue: Catalogue, service: str, form: Format) -> None:
        self._catalogue = catalogue
        self._service = service
        self._format = form
        self._readers: dict[str, Read] = {}
        self._writers: dict[str, Write] = {}

    def reader(self, ref: Ref) -> Read:
        if ref.kind == "structure":
            return self.structure_reader(ref.shape)
        if ref.kind == "list":
            element = self._catalogue.shape(self._service, ref.shape).element
            assert element is not None
            return _list_reader(self.reader(element))
        if ref.kind == "map":
            shape = self._catalogue.shape(self._service, ref.shape)
            assert shape.value is not None
            return _map_reader(self.reader(shape.value))
        return self._format.reads[ref.kind]

    def structure_reader(self, name: str) -> Read:
        """Reads the members that are in the body. Those that the model does not have are ignored."""
        found = self._readers.get(name)
        if found is not None:
            return found
        shape = self._catalogue.shape(self._service, name)
        if shape.document:
            return lambda value: value
        members: dict[str, tuple[str, Read]] = {}
        required: list[tuple[str, str]] = []

        def read(value: Any) -> dict[str, Any]:
            if type(value) is not dict:
                raise invalid("A structure is expected")
            parsed = {}
            for wire, item in value.items():
                member = members.get(wire)
                if member is None or item is None:
                    continue
                try:
                    parsed[member[0]] = member[1](item)
                except InputError as error:
                    raise error.under(wire) from None
            for member_name, wire in required:
                if member_name not in parsed:
                    raise InputError("missing", "", wire)
            return parsed

        self._readers[name] = read
        for ref in shape.members:
            if not ref.location:
                members[ref.wire_name] = (ref.name, self.reader(ref))
                if ref.name in shape.required:
                    required.append((ref.name, ref.wire_name))
        return read

    def writer(self, ref: Ref) -> Write | None:
        if ref.kind == "structure":
            return self.structure_writer(ref.shape)
        if ref.kind == "list":
            element = self._catalogue.shape(self._service, ref.shape).element
            assert element is not None
            return _list_writer(self.writer(element))
        if ref.kind == "map":
            shape = self._catalogue.shape(self._service, ref.shape)
            assert shape.value is not None
            return _map_writer(self.writer(shape.value))
        if ref.kind == "timestamp":
            return self._format.write_timestamp(ref.time_format)
        return self._format.writes[ref.kind]

    def structure_writer(self, name: str) -> Write:
        """Writes a structure's members that are in the body."""
        found = self._writers.get(name)
        if found is not None:
            return found
        shape = self._catalogue.shape(self._service, name)
        if shape.document:
            return lambda value: value
        members: dict[str, tuple[str, Write | None]] = {}

        def write(value: Any) -> dict[str, Any]:
            written = {}
            for name_, item in value.items():
                if item is None:
                    continue
                wire, convert = members[name_]
                if wire:
                    written[wire] = item if convert is None else convert(item)
            return written

        self._writers[name] = write
        for ref in shape.members:
            members[ref.name] = ("", None) if ref.location else (ref.wire_name, self.writer(ref))
        return write


def _list_reader(read: Read) -> Read:
    def read_list(value: Any) -> list[Any]:
        if type(value) is not list:
            raise invalid("A list is expected")
        parsed = []
        for index, item in enumerate(value):
            try:
                parsed.append(read(item))
            except InputError as error:
                raise error.under(str(index + 1)) from None
        return parsed

    return read_list


def _map_reader(read: Read) -> Read:
    def read_map(value: Any) -> dict[str, Any]:
        if type(value) is not dict:
            raise invalid("A map is expected")
        parsed = {}
        for key, item in value.items():
            if type(key) is not str:
                raise invalid("A map's keys are strings")
            if item is not None:
                try:
                    parsed[key] = read(item)
                except InputError as error:
                    raise error.under(key[:100]) from None
        return parsed

    return read_map


def _list_writer(write: Write | None) -> Write:
    if write is None:
        return list
    return lambda value: [None if item is None else write(item) for item in value]


def _map_writer(write: Write | None) -> Write:
    if write is None:
        return dict
    return lambda value: {key: None if item is None else write(item) for key, item in value.items()}
