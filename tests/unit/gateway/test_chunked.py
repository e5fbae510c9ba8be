from __future__ import annotations

import pytest

from gureum.gateway.chunked import ChunkedDecoder, ChunkSigner
from gureum.gateway.errors import AuthError
from gureum.gateway.scalars import InputError
from gureum.gateway.sigv4 import signing_key

# From "Signature Calculations for the Authorization Header: Transferring Payload in Multiple Chunks" of the
# S3 manual, without and with trailing headers.
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
SEED = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"
FIRST = "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648"
SECOND = "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497"
LAST = "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9"
TRAILER_SEED = "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e"
TRAILER_CHUNKS = (
    "b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2",
    "1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7",
    "2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992",
)
TRAILER_SIGNATURE = "d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435"


def signer(seed: str = SEED) -> ChunkSigner:
    key = signing_key(SECRET, "20130524", "us-east-1", "s3")
    return ChunkSigner(key, "20130524T000000Z", "20130524/us-east-1/s3/aws4_request", seed)


def body(first: str = FIRST, second: str = SECOND, last: str = LAST) -> bytes:
    return (
        f"10000;chunk-signature={first}\r\n{'a' * 65536}\r\n"
        f"400;chunk-signature={second}\r\n{'a' * 1024}\r\n"
        f"0;chunk-signature={last}\r\n\r\n"
    ).encode()


def decode(decoder: ChunkedDecoder, data: bytes, step: int) -> bytes:
    pieces: list[bytes] = []
    for at in range(0, len(data), step):
        pieces += decoder.feed(data[at : at + step])
    decoder.finish()
    return b"".join(pieces)


@pytest.mark.parametrize("step", [1, 7, 65536, 1 << 20])
def test_signed_example(step: int) -> None:
    decoder = ChunkedDecoder(signer(), frozenset(), signed_trailer=False)
    assert decode(decoder, body(), step) == b"a" * 66560


@pytest.mark.parametrize(
    "data",
    [
        body(first=SECOND),
        body(second=FIRST),
        body(last=FIRST),
        body().replace(b"a\r\n400", b"b\r\n400"),
        body().replace(f";chunk-signature={SECOND}".encode(), b""),
    ],
)
def test_altered_chunks(data: bytes) -> None:
    with pytest.raises(AuthError):
        decode(ChunkedDecoder(signer(), frozenset(), signed_trailer=False), data, 1 << 20)


def trailed(checksum: str = "sOO8/Q==", signature: str = TRAILER_SIGNATURE) -> bytes:
    first, second, last = TRAILER_CHUNKS
    head = body(first, second, last)[:-2].decode()
    return f"{head}x-amz-checksum-crc32c:{checksum}\r\nx-amz-trailer-signature:{signature}\r\n\r\n".encode()


def trailer_decoder() -> ChunkedDecoder:
    return ChunkedDecoder(signer(TRAILER_SEED), frozenset({"x-amz-checksum-crc32c"}), signed_trailer=True)


def test_signed_trailer_example() -> None:
    decoder = trailer_decoder()
    assert decode(decoder, trailed(), 4096) == b"a" * 66560
    assert decoder.trailers == {"x-amz-checksum-crc32c": "sOO8/Q=="}


@pytest.mark.parametrize(
    "data",
    [
        trailed(checksum="AAAAAA=="),
        trailed(signature=LAST),
        trailed().replace(f"x-amz-trailer-signature:{TRAILER_SIGNATURE}\r\n".encode(), b""),
    ],
)
def test_altered_trailer(data: bytes) -> None:
    with pytest.raises(AuthError):
        decode(trailer_decoder(), data, 1 << 20)


def unsigned(data: bytes, names: frozenset[str] = frozenset()) -> bytes:
    return decode(ChunkedDecoder(None, names, signed_trailer=False), data, 3)


def test_unsigned() -> None:
    names = frozenset({"x-amz-checksum-crc32"})
    assert unsigned(b"3\r\nabc\r\n2\r\nde\r\n0\r\nx-amz-checksum-crc32:AAAA\r\n\r\n", names) == b"abcde"
    assert unsigned(b"0\r\n\r\n") == b""


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"3\r\nabc\r\n",
        b"3\r\nabcd\r\n0\r\n\r\n",
        b"4\r\nabc\r\n0\r\n\r\n",
        b"x\r\nabc\r\n0\r\n\r\n",
        b"-1\r\n\r\n",
        b"fffffffffffffffff\r\n",
        b"1" * 9000,
        b"0\r\n\r\nmore",
        b"0\r\nx-amz-checksum-crc32:AAAA\r\n\r\n",
        b"0\r\nno colon\r\n\r\n",
    ],
)
def test_malformed(data: bytes) -> None:
    with pytest.raises(InputError):
        unsigned(data)


def test_announced_trailer_is_missing() -> None:
    with pytest.raises(InputError, match="missing"):
        unsigned(b"0\r\n\r\n", frozenset({"x-amz-checksum-crc32"}))
