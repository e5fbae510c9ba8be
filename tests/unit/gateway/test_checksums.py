from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gureum.gateway.checksums import ALGORITHMS, encoded, table_crc


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("crc32", "y/Q5Jg=="),
        ("crc32c", "4waSgw=="),
        ("crc64nvme", "rosUhgp5mIg="),
    ],
)
def test_check_value(name: str, expected: str) -> None:
    """Of "123456789", as catalogues of CRCs give it, in S3's base64."""
    whole, pieces = ALGORITHMS[name](), ALGORITHMS[name]()
    whole.update(b"123456789")
    for byte in b"123456789":
        pieces.update(bytes([byte]))
    assert encoded(whole) == encoded(pieces) == expected


@given(st.binary(max_size=200), st.integers(0, 200))
def test_tables_continue(data: bytes, at: int) -> None:
    for polynomial, bits in ((0x82F63B78, 32), (0x9A6C9329AC4BC9B5, 64)):
        step = table_crc(polynomial, bits)
        assert step(data[at:], step(data[:at], 0)) == step(data, 0)
