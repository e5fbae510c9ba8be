from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gureum.errors import PoolError
from gureum.san import qcow2


def whole(size_bytes: int, backing: str = "", backing_format: str = "") -> bytearray:
    parts, length = qcow2.empty_image(size_bytes, backing, backing_format)
    data = bytearray(length)
    for offset, part in parts.items():
        assert offset + len(part) <= length
        data[offset : offset + len(part)] = part
    return data


@pytest.mark.parametrize("size_bytes", [512, 1 << 30, (1 << 30) + 512, 64 << 40])
@pytest.mark.parametrize("backing", ["", "vol-1.00000000.qcow2", "ami-" + "a" * 40 + ".00000000.raw"])
def test_empty_image_is_read_back(size_bytes, backing):
    header = qcow2.parse(bytes(whole(size_bytes, backing, "raw")[: qcow2.HEADER_READ]))
    assert header == qcow2.Header(
        version=3, size_bytes=size_bytes, backing=backing, encrypted=False, incompatible=0
    )


def test_l1_table_covers_the_disk():
    data = whole(64 << 40)
    tables = struct.unpack_from(">I", data, 36)[0]
    assert tables * 512 * (1 << 20) == 64 << 40
    assert len(data) == (3 + tables * 8 // qcow2.CLUSTER) * qcow2.CLUSTER


def test_overlong_backing_name():
    with pytest.raises(PoolError, match="too long"):
        qcow2.empty_image(1 << 30, "x" * 1024, "raw")


@pytest.mark.parametrize("length", [0, 4, 71, 72, 103])
def test_short_file(length):
    with pytest.raises(PoolError, match="no qcow2 file"):
        qcow2.parse(bytes(whole(1 << 30))[:length])


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (0, b"VMDK", "no qcow2 file"),
        (4, struct.pack(">I", 4), "no qcow2 file"),
        (20, struct.pack(">I", 40), "no qcow2 file"),
        (8, struct.pack(">QI", 104, 1 << 20), "out of place"),
        (8, struct.pack(">QI", 4090, 20), "out of place"),
    ],
)
def test_bad_header(offset, value, message):
    data = whole(1 << 30)
    data[offset : offset + len(value)] = value
    with pytest.raises(PoolError, match=message):
        qcow2.parse(bytes(data[: qcow2.HEADER_READ]))


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (32, struct.pack(">I", 2), "encrypted"),
        (72, struct.pack(">Q", qcow2.INCOMPATIBLE_DATA_FILE), "external data file"),
        (72, struct.pack(">Q", qcow2.INCOMPATIBLE_CORRUPT), "features 0x2"),
        (72, struct.pack(">Q", 1 << 63), "not allowed"),
    ],
)
def test_foreign_features(offset, value, message):
    data = whole(1 << 30)
    data[offset : offset + len(value)] = value
    header = qcow2.parse(bytes(data[: qcow2.HEADER_READ]))
    with pytest.raises(PoolError, match=message):
        qcow2.refuse_foreign(header, qcow2.INCOMPATIBLE_DIRTY)


@given(st.binary(max_size=200), st.integers(0, 120))
def test_no_input_breaks_the_parser(noise, offset):
    data = whole(1 << 30, "base.raw", "raw")[: qcow2.HEADER_READ]
    data[offset : offset + len(noise)] = noise
    try:
        header = qcow2.parse(bytes(data))
        qcow2.refuse_foreign(header, 0)
    except PoolError:
        pass
