"""Values of the models' simple types, from and to text. One place for the limits of each type."""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

INTEGER_MAX = 2**31 - 1
LONG_MAX = 2**63 - 1
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_INTEGER = re.compile(r"[+-]?[0-9]{1,19}\Z")
_FLOAT = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?\Z")
_EPOCH = re.compile(r"-?[0-9]{1,13}(?:\.[0-9]{1,12})?\Z")
_ISO = re.compile(
    r"(\d{4})-?(\d\d)-?(\d\d)(?:[Tt ](\d\d):?(\d\d)(?::?(\d\d)(?:[.,](\d{1,9}))?)?)?"
    r"\s*([Zz]|[+-]\d\d(?::?\d\d)?)?\Z"
)


class InputError(ValueError):
    """A request that does not fit its model. ``reason`` is missing, invalid, unknown or malformed.

    Structures and lists put their own name before ``path`` while the error goes up.
    """

    def __init__(self, reason: str, text: str, path: str = "") -> None:
        super().__init__(text)
        self.reason = reason
        self.text = text
        self.path = path

    def under(self, name: str) -> InputError:
        self.path = f"{name}.{self.path}" if self.path else name
        return self


def invalid(text: str) -> InputError:
    return InputError("invalid", text)


def _shown(text: str) -> str:
    return text if len(text) <= 100 else text[:100] + "..."


def parse_boolean(text: str) -> bool:
    lowered = text.lower()
    if lowered == "true" or lowered == "1":
        return True
    if lowered == "false" or lowered == "0":
        return False
    raise invalid(f"Value ({_shown(text)}) is not a boolean; true or false is expected")


def parse_integer(text: str) -> int:
    return check_integer(_integer(text))


def parse_long(text: str) -> int:
    return check_long(_integer(text))


def _integer(text: str) -> int:
    if not _INTEGER.match(text):
        raise invalid(f"Value ({_shown(text)}) is not an integer")
    return int(text)


def check_integer(value: int) -> int:
    if -INTEGER_MAX - 1 <= value <= INTEGER_MAX:
        return value
    raise invalid(
        f"Value ({value}) does not fit in 32 bits" if abs(value) < 1 << 99 else "Value is too large"
    )


def check_long(value: int) -> int:
    if -LONG_MAX - 1 <= value <= LONG_MAX:
        return value
    raise invalid("Value does not fit in 64 bits")


def parse_float(text: str) -> float:
    if _FLOAT.match(text):
        return float(text)
    return special_float(text)


def special_float(text: str) -> float:
    if text in ("NaN", "Infinity", "-Infinity"):
        return float(text)
    raise invalid(f"Value ({_shown(text)}) is not a number")


def parse_blob(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        # Some clients break the lines; anything else than base64 and white space is refused.
        try:
            return base64.b64decode("".join(text.split()), validate=True)
        except (binascii.Error, ValueError):
            raise invalid("Value is not base64") from None


def parse_timestamp(text: str) -> datetime:
    """A timestamp in any of the three formats, whatever the model says: clients mix them."""
    match = _ISO.match(text)
    if match:
        return _iso(match, text)
    if _EPOCH.match(text):
        return from_epoch(float(text))
    try:
        parsed = parsedate_to_datetime(text)
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        raise invalid(f"Value ({_shown(text)}) is not a timestamp") from None


def _iso(match: re.Match[str], text: str) -> datetime:
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    try:
        value = datetime(
            int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0),
            int((fraction or "0")[:6].ljust(6, "0")), UTC,
        )  # fmt: skip
        if zone and zone not in "Zz":
            digits = zone[1:].replace(":", "").ljust(4, "0")
            offset = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
            value += offset if zone[0] == "-" else -offset
        return value
    except (ValueError, OverflowError):
        raise invalid(f"Value ({_shown(text)}) is not a timestamp") from None


def from_epoch(value: float) -> datetime:
    try:
        if math.isfinite(value):
            return EPOCH + timedelta(microseconds=round(value * 1e6))
    except (OverflowError, ValueError):
        pass
    raise invalid(f"Value ({value}) is not a timestamp")


def as_datetime(value: datetime | float) -> datetime:
    """Services may answer a datetime or seconds since the epoch."""
    if isinstance(value, datetime):
        return value if value.tzinfo is UTC else value.astimezone(UTC)
    return EPOCH + timedelta(microseconds=round(value * 1e6))


def iso_millis(value: datetime | float) -> str:
    """``2026-01-02T03:04:05.678Z``, as EC2 and S3 write it."""
    return as_datetime(value).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def iso(value: datetime | float) -> str:
    """As :func:`iso_millis`, without the milliseconds if there are none."""
    text = iso_millis(value)
    return text[:-5] + "Z" if text.endswith(".000Z") else text


_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def http_date(value: datetime | float) -> str:
    t = as_datetime(value)
    return (
        f"{_DAYS[t.weekday()]}, {t.day:02} {_MONTHS[t.month - 1]} {t.year:04}"
        f" {t.hour:02}:{t.minute:02}:{t.second:02} GMT"
    )


def epoch(value: datetime | float) -> float | int:
    """Seconds, with milliseconds where there are any, as AWS's JSON services answer."""
    microseconds = (as_datetime(value) - EPOCH) // timedelta(microseconds=1)
    millis = microseconds // 1000
    return millis // 1000 if millis % 1000 == 0 else millis / 1000


def epoch_text(value: datetime | float) -> str:
    return str(epoch(value))


def format_boolean(value: Any) -> str:
    return "true" if value else "false"


def format_integer(value: Any) -> str:
    return str(int(value))


def format_float(value: float) -> str:
    value = float(value)
    if math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def format_blob(value: bytes | bytearray | memoryview | str) -> str:
    return base64.b64encode(value.encode() if isinstance(value, str) else value).decode("ascii")


PARSERS: dict[str, Callable[[str], Any]] = {
    "integer": parse_integer,
    "long": parse_long,
    "float": parse_float,
    "double": parse_float,
    "boolean": parse_boolean,
    "timestamp": parse_timestamp,
    "blob": parse_blob,
}
"""From text, by kind; a string is the text itself."""

TIME_FORMATS: dict[str, Callable[[datetime | float], str]] = {
    "iso8601": iso,
    "rfc822": http_date,
    "unixTimestamp": epoch_text,
    "unixtimestamp": epoch_text,
}
FORMATS: dict[str, Callable[[Any], str]] = {
    "integer": format_integer,
    "long": format_integer,
    "float": format_float,
    "double": format_float,
    "boolean": format_boolean,
    "blob": format_blob,
}
