from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gureum.gateway import scalars
from gureum.gateway.scalars import InputError

MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-02T03:04:05.678Z", MOMENT),
        ("2026-01-02T03:04:05Z", MOMENT.replace(microsecond=0)),
        ("2026-01-02T05:04:05.678+02:00", MOMENT),
        ("20260102T030405Z", MOMENT.replace(microsecond=0)),
        ("2026-01-02", datetime(2026, 1, 2, tzinfo=UTC)),
        ("1767323045.678", MOMENT),
        ("Fri, 02 Jan 2026 03:04:05 GMT", MOMENT.replace(microsecond=0)),
        ("-1", datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ("2026-01-02T03:04:05.123456789Z", MOMENT.replace(microsecond=123456)),
    ],
)
def test_timestamps_in_any_format(text: str, expected: datetime) -> None:
    assert scalars.parse_timestamp(text) == expected


@pytest.mark.parametrize("text", ["", "now", "2026-13-01", "2026-01-02T25:00:00Z", "9" * 13, "1e5", "NaN"])
def test_bad_timestamps(text: str) -> None:
    with pytest.raises(InputError, match="timestamp"):
        scalars.parse_timestamp(text)


def test_written_timestamps() -> None:
    assert scalars.iso_millis(MOMENT) == scalars.iso(MOMENT) == "2026-01-02T03:04:05.678Z"
    assert scalars.iso(MOMENT.replace(microsecond=0)) == "2026-01-02T03:04:05Z"
    assert scalars.http_date(MOMENT) == "Fri, 02 Jan 2026 03:04:05 GMT"
    assert scalars.epoch(MOMENT) == 1767323045.678
    assert scalars.epoch_text(1767323045) == "1767323045"
    assert scalars.iso_millis(1767323045.678) == "2026-01-02T03:04:05.678Z"


@pytest.mark.parametrize(
    ("text", "value"), [("0", 0), ("-2147483648", -(2**31)), ("+7", 7), ("2147483647", 2**31 - 1)]
)
def test_integers(text: str, value: int) -> None:
    assert scalars.parse_integer(text) == value


@pytest.mark.parametrize(
    "text", ["", " 1", "1.0", "2147483648", "-2147483649", "9" * 5000, "0x10", "٣", "1_000"]
)
def test_bad_integers(text: str) -> None:
    with pytest.raises(InputError):
        scalars.parse_integer(text)


def test_long_bounds() -> None:
    assert scalars.parse_long(str(2**63 - 1)) == 2**63 - 1
    with pytest.raises(InputError):
        scalars.parse_long(str(2**63))


def test_floats() -> None:
    assert scalars.parse_float("-1.5e3") == -1500.0
    assert math.isinf(scalars.parse_float("-Infinity"))
    assert scalars.format_float(float("nan")) == "NaN"
    assert scalars.format_float(float("inf")) == "Infinity"
    for text in ("", "nan", "inf", "1,5", "0x1p3", "1_0"):
        with pytest.raises(InputError):
            scalars.parse_float(text)


def test_booleans() -> None:
    assert scalars.parse_boolean("True") is True
    assert scalars.parse_boolean("0") is False
    with pytest.raises(InputError):
        scalars.parse_boolean("yes")


@given(st.binary())
def test_blobs(data: bytes) -> None:
    assert scalars.parse_blob(scalars.format_blob(data)) == data


def test_blobs_with_broken_lines() -> None:
    assert scalars.parse_blob("aGVs\nbG8=\n") == b"hello"
    with pytest.raises(InputError):
        scalars.parse_blob("not base64!")


def test_path_of_an_error() -> None:
    error = scalars.invalid("wrong").under("1").under("Tags")
    assert error.path == "Tags.1"
