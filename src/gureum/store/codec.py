"""Records as JSON, and their index entries.

JSON rather than a denser form: an operator can read the store with any SQL shell, and PostgreSQL can too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from gureum.errors import StoreError
from gureum.resources import KINDS, Record

R = TypeVar("R", bound=Record)

_encode = msgspec.json.Encoder().encode
_decoders: dict[str, msgspec.json.Decoder[Record]] = {}


def decode(kind: str, body: str | bytes) -> Record:
    """Raises StoreError if the body is not a record of this kind (KeyError for a kind nobody knows)."""
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(KINDS[kind])
    try:
        return decoder.decode(body)
    except msgspec.DecodeError as error:
        raise StoreError(f"a stored {kind} cannot be read: {error}") from error


def settle(record: R, version: int) -> tuple[R, bytes]:
    """The record as it will be read back, with this version, and its body.

    Reading it back at once keeps a record with a wrong type in it out of the store, where nobody could read
    it any more, and cuts the ties to dicts that the caller may still change.
    """
    try:
        body = _encode(msgspec.structs.replace(record, version=version))
        settled = decode(record.kind, body)
    except (TypeError, ValueError, StoreError, KeyError) as error:
        raise StoreError(f"{record.kind} {record.id!r} cannot be stored: {error!r}") from error
    for field, value in [("id", record.id), *entries(settled)]:
        if (not value and field == "id") or not storable(value):
            raise StoreError(f"{record.kind} {record.id!r} cannot be stored with {field} {value!r}")
    return settled, body  # type: ignore[return-value]  # decode returns the class registered for the kind


def entries(record: Record) -> set[tuple[str, str]]:
    """The (field, value) pairs by which ``find`` sees the record."""
    pairs: set[tuple[str, str]] = set()
    for field in record.indexes:
        value = getattr(record, field)
        if isinstance(value, str):
            pairs.add((field, str(value)))
        elif value is not None:
            pairs.update((field, str(item)) for item in value)
    return pairs


def text_array(values: Sequence[str]) -> str:
    """A JSON array, for SQL parameters that are lists."""
    return _encode(values).decode()


def storable(value: str) -> bool:
    """Whether an id or an indexed value can be this text: SQL has no NUL, and UTF-8 no lone surrogates.

    What is not storable is equal to nothing in the store, so a search for it finds nothing.
    """
    if value.isascii():
        return "\0" not in value
    try:
        return b"\0" not in value.encode()
    except UnicodeEncodeError:
        return False
