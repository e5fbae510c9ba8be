from __future__ import annotations

import base64
import gzip
import hashlib
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gureum.errors import ApiError
from gureum.gateway.body import Body, BodyReader, Budget, ClientGone, inflated, payload_body, promised_checks
from gureum.gateway.message import Request
from gureum.gateway.scalars import InputError
from gureum.gateway.sigv4 import Claim

DATA = b"some data"
SHA256 = hashlib.sha256(DATA).hexdigest()
CRC32 = base64.b64encode(zlib.crc32(DATA).to_bytes(4, "big")).decode()


def receiver(*pieces: bytes, gone: bool = False) -> Callable[[], Awaitable[Any]]:
    messages: list[Any] = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    if gone:
        messages.append({"type": "http.disconnect"})
    else:
        messages[-1]["more_body"] = False

    async def receive() -> Any:
        return messages.pop(0)

    return receive


def reader(*pieces: bytes, gone: bool = False, budget: int = 1000) -> BodyReader:
    return BodyReader(receiver(*pieces, gone=gone), Budget(budget))


async def test_whole() -> None:
    read = reader(b"some ", b"", b"data")
    assert await read.whole(9) == DATA
    assert await read.whole(9) == DATA
    assert [piece async for piece in read.pieces()] == [DATA]


async def test_limits() -> None:
    for limit, budget, code in ((8, 1000, "RequestEntityTooLarge"), (1000, 8, "SlowDown")):
        for pieces in ((DATA,), (b"some ", b"data")):
            with pytest.raises(ApiError) as caught:
                await reader(*pieces, budget=budget).whole(limit)
            assert caught.value.code == code


async def test_budget_is_given_back() -> None:
    budget = Budget(9)
    for _ in range(2):
        read = BodyReader(receiver(DATA), budget)
        assert await read.whole(9) == DATA
        read.release()


async def test_client_goes_away() -> None:
    with pytest.raises(ClientGone):
        await reader(b"some", gone=True).whole(100)
    with pytest.raises(ClientGone):
        await Body(reader(b"some", gone=True), length=None).read(100)


def body(*pieces: bytes, **headers: str) -> Body:
    """As a verified request to S3 with these headers has it."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    pairs = [(name.encode(), value.encode()) for name, value in named.items()]
    scope = {"method": "PUT", "raw_path": b"/b/k", "query_string": b"", "headers": pairs}
    claim = Claim("A", "20260101", "r", "s3", "20260101T000000Z", [], "0" * 64, None)
    claim.payload = named.get("x-amz-content-sha256", "UNSIGNED-PAYLOAD")
    return payload_body(Request(scope), reader(*pieces), claim, b"key", checksummed=True)


async def test_promises_that_are_kept() -> None:
    made = body(
        b"some ",
        b"data",
        content_length="9",
        x_amz_content_sha256=SHA256,
        x_amz_checksum_crc32=CRC32,
        x_amz_checksum_algorithm="CRC32",
        content_md5=base64.b64encode(hashlib.md5(DATA).digest()).decode(),
    )
    assert (made.length, await made.read(100)) == (9, DATA)
    assert made.checksums["crc32"] == CRC32


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"content_length": "8"}, "IncompleteBody"),
        ({"content_length": "10"}, "IncompleteBody"),
        ({"x_amz_content_sha256": "0" * 64}, "XAmzContentSHA256Mismatch"),
        ({"x_amz_checksum_crc32": "AAAAAA=="}, "BadDigest"),
        ({"x_amz_checksum_sha256": CRC32}, "BadDigest"),
        ({"content_md5": "AAAA"}, "BadDigest"),
    ],
)
async def test_promises_that_are_broken(headers: dict[str, str], code: str) -> None:
    with pytest.raises(ApiError) as caught:
        await body(b"some ", b"data", **headers).read(100)
    assert caught.value.code == code


STREAMED = {
    "x_amz_content_sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
    "x_amz_trailer": "x-amz-checksum-crc32",
}
CHUNKS = b"9\r\nsome data\r\n0\r\nx-amz-checksum-crc32:%s\r\n\r\n"


async def test_trailer() -> None:
    made = body(CHUNKS % CRC32.encode(), x_amz_decoded_content_length="9", **STREAMED)
    assert await made.read(100) == DATA
    assert made.checksums == {"crc32": CRC32}
    with pytest.raises(ApiError, match="BadDigest"):
        await body(CHUNKS % b"AAAAAA==", x_amz_decoded_content_length="9", **STREAMED).read(100)
    with pytest.raises(ApiError, match="IncompleteBody"):
        await body(CHUNKS % CRC32.encode(), x_amz_decoded_content_length="8", **STREAMED).read(100)


def test_streams_that_do_not_fit_their_headers() -> None:
    with pytest.raises(ApiError, match="MissingContentLength"):
        body(b"", **STREAMED)
    with pytest.raises(InputError, match="number of bytes"):
        body(b"", x_amz_decoded_content_length="-1", **STREAMED)
    with pytest.raises(InputError, match="does not fit"):
        body(b"", x_amz_content_sha256=STREAMED["x_amz_content_sha256"])
    with pytest.raises(InputError, match="has trailers"):
        body(b"", x_amz_trailer="x-amz-checksum-crc32")
    with pytest.raises(ApiError, match="not supported"):
        body(b"", **{**STREAMED, "x_amz_trailer": "x-amz-other"}, x_amz_decoded_content_length="9")


def test_unknown_checksum_is_refused() -> None:
    with pytest.raises(ApiError, match="not supported"):
        promised_checks({"x-amz-checksum-xxhash3": "x"}, frozenset())


def test_compressed() -> None:
    assert inflated(gzip.compress(DATA), "gzip", 9) == DATA
    assert inflated(DATA, "identity", 9) == DATA
    with pytest.raises(ApiError, match="larger than 8"):
        inflated(gzip.compress(DATA), "gzip", 8)
    with pytest.raises(ApiError, match="larger than"):
        inflated(gzip.compress(bytes(10_000_000)), "gzip", 1000)
    for broken in (DATA, gzip.compress(DATA)[:-9], b""):
        with pytest.raises(InputError):
            inflated(broken, "gzip", 100)
