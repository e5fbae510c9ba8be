from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import cbor2
import pytest

from gureum.gateway.catalogue import Catalogue
from gureum.gateway.documents import DocumentPlans, Format, decode_cbor, decode_json
from gureum.gateway.limits import Limits
from gureum.gateway.scalars import InputError

LIMITS = Limits(depth_max=6, elements_max=50)
MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff",
        b"[" * 7 + b"]" * 7,
        b'{"a":' * 7 + b"1" + b"}" * 7,
        b"[" * 100_000,
        b"[" + b"1," * 60 + b"1]",
    ],
)
def test_refused_json(body: bytes) -> None:
    with pytest.raises(InputError) as caught:
        decode_json(body, LIMITS)
    assert caught.value.reason == "malformed"


def test_deepest_json() -> None:
    assert decode_json(b"[[[[[1]]]]]", LIMITS) == [[[[[1]]]]]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"\x81" * 7 + b"\x00",
        b"\xa2\x61a\x01\x61a\x02",
        b"\xa1\x81\x01\x02",
        b"\x9b" + b"\x7f" * 8,
    ],
)
def test_refused_cbor(body: bytes) -> None:
    with pytest.raises(InputError):
        decode_cbor(body, LIMITS)


@pytest.mark.parametrize("tag", [t for t in (*range(300), 1004, 1040, 43000, 55799) if t != 1])
def test_only_the_tag_of_timestamps(tag: int) -> None:
    for content in (b"\x00", b"\x80", b"\x82\x01\x02", b"\x41a", b"\x61a"):
        head = b"\xd8" + bytes([tag]) if tag < 256 else b"\xd9" + tag.to_bytes(2, "big")
        with pytest.raises(InputError):
            decode_cbor(head + content, LIMITS)


@pytest.mark.parametrize("content", [b"\x1a\x69\x57\x36\x25", b"\xfb" + b"\x41\xda\x55\xcd\x89\x6b\x64\x5a"])
def test_timestamps_of_cbor(content: bytes) -> None:
    assert isinstance(decode_cbor(b"\xc1" + content, LIMITS), datetime)


def plans(catalogue: Catalogue, *, cbor: bool = False, service: str = "logs") -> DocumentPlans:
    return DocumentPlans(catalogue, service, Format(cbor=cbor))


@pytest.mark.parametrize(
    ("document", "reason", "path"),
    [
        ({}, "missing", "logGroupName"),
        ({"logGroupName": None}, "missing", "logGroupName"),
        ({"logGroupName": 1}, "invalid", "logGroupName"),
        ({"logGroupName": "g", "tags": ["a"]}, "invalid", "tags"),
        ({"logGroupName": "g", "tags": {"a": 1}}, "invalid", "tags.a"),
        ([], "invalid", ""),
    ],
)
def test_does_not_fit(catalogue: Catalogue, document: Any, reason: str, path: str) -> None:
    with pytest.raises(InputError) as caught:
        plans(catalogue).structure_reader("CreateLogGroupRequest")(document)
    assert (caught.value.reason, caught.value.path) == (reason, path)


def test_unknown_members_are_ignored(catalogue: Catalogue) -> None:
    document = {"logGroupName": "g", "colour": "red", "__type": "x"}
    assert plans(catalogue).structure_reader("CreateLogGroupRequest")(document) == {"logGroupName": "g"}


def test_timestamps(catalogue: Catalogue) -> None:
    read = plans(catalogue, cbor=True, service="cloudwatch").structure_reader("MetricDatum")
    for value in (MOMENT, MOMENT.timestamp(), "2026-01-02T03:04:05.678Z"):
        assert read({"MetricName": "m", "Timestamp": value})["Timestamp"] == MOMENT
    write = plans(catalogue, cbor=True, service="cloudwatch").structure_writer("MetricDatum")
    assert write({"Timestamp": MOMENT})["Timestamp"] == cbor2.CBORTag(1, MOMENT.timestamp())
    write = plans(catalogue, service="cloudwatch").structure_writer("MetricDatum")
    assert write({"Timestamp": MOMENT}) == {"Timestamp": 1767323045.678}


def test_wrong_output_is_a_bug_of_the_service(catalogue: Catalogue) -> None:
    write = plans(catalogue).structure_writer("CreateLogGroupRequest")
    with pytest.raises(KeyError, match="colour"):
        write({"colour": "red"})
    with pytest.raises(TypeError, match="string is expected"):
        write({"logGroupName": 1})
