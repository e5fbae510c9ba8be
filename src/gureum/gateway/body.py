"""The body of a request: read piece by piece, decoded, and checked against what was promised."""

from __future__ import annotations

import hashlib
import hmac
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

from gureum.errors import ApiError
from gureum.gateway import sigv4
from gureum.gateway.checksums import ALGORITHMS, HEADER_PREFIX, Checksum, encoded, md5
from gureum.gateway.chunked import ChunkedDecoder, ChunkSigner
from gureum.gateway.message import Request
from gureum.gateway.scalars import InputError

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class ClientGone(Exception):
    """The client closed its connection before the end of the request."""


class Budget:
    """Bytes of bodies that all requests together hold in memory."""

    def __init__(self, bytes_max: int) -> None:
        self._left = bytes_max

    def take(self, size: int) -> None:
        if size > self._left:
            raise ApiError(
                "SlowDown", "Too many large requests at once. Please reduce your request rate.", 503
            )
        self._left -= size

    def give_back(self, size: int) -> None:
        self._left += size


class BodyReader:
    """The raw bytes of one request's body, each read once."""

    def __init__(self, receive: Receive, budget: Budget) -> None:
        self._receive = receive
        self._budget = budget
        self._held = 0
        self._whole: bytes | None = None
        self.started = False

    async def whole(self, limit: int) -> bytes:
        """All of it; raises ApiError if that is more than ``limit`` bytes."""
        if self._whole is not None:
            return self._whole
        self.started = True
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body"):
            body: bytes = message.get("body", b"")
            self.hold(len(body), 0, limit)
        else:
            body = await self._collect(message, limit)
        self._whole = body
        return body

    async def _collect(self, message: MutableMapping[str, Any], limit: int) -> bytes:
        pieces = bytearray()
        while True:
            if message["type"] != "http.request":
                raise ClientGone
            piece = message.get("body", b"")
            self.hold(len(piece), len(pieces), limit)
            pieces += piece
            if not message.get("more_body"):
                return bytes(pieces)
            message = await self._receive()

    def hold(self, size: int, before: int, limit: int) -> None:
        if size + before > limit:
            raise too_large(limit)
        self._budget.take(size)
        self._held += size

    def release(self) -> None:
        self._budget.give_back(self._held)
        self._held = 0

    async def pieces(self) -> AsyncIterator[bytes]:
        if self._whole is not None:
            yield self._whole
            return
        self.started = True
        while True:
            message = await self._receive()
            if message["type"] != "http.request":
                raise ClientGone
            if piece := message.get("body", b""):
                yield piece
            if not message.get("more_body"):
                return


class Body:
    """The payload of a streaming operation: ``async for piece in body``.

    ``length`` is its size in bytes after decoding, or None where the client did not say. Every promise about
    it (length, hash, signature, checksum) is checked by the time the iteration ends: an operation must not
    commit before. ``checksums`` has the verified ones, by algorithm, base64.
    """

    def __init__(
        self,
        reader: BodyReader,
        *,
        length: int | None,
        sha256: str = "",
        decoder: ChunkedDecoder | None = None,
        checks: dict[str, tuple[Checksum, str]] | None = None,
    ) -> None:
        self._reader = reader
        self.length = length
        self._sha256 = sha256
        self._decoder = decoder
        self._checks = checks or {}
        self.checksums: dict[str, str] = {}

    async def __aiter__(self) -> AsyncIterator[bytes]:
        digest = hashlib.sha256() if self._sha256 else None
        running = [checksum for checksum, _ in self._checks.values()]
        seen = 0
        async for raw in self._reader.pieces():
            if digest is not None:
                digest.update(raw)
            for piece in (raw,) if self._decoder is None else self._decoder.feed(raw):
                seen += len(piece)
                if self.length is not None and seen > self.length:
                    raise _incomplete()
                for checksum in running:
                    checksum.update(piece)
                yield piece
        self._finish(seen, digest.hexdigest() if digest is not None else "")

    def _finish(self, seen: int, digest: str) -> None:
        if self.length is not None and seen != self.length:
            raise _incomplete()
        if not hmac.compare_digest(digest, self._sha256):
            raise ApiError(
                "XAmzContentSHA256Mismatch",
                "The provided 'x-amz-content-sha256' header does not match what was computed.",
            )
        if self._decoder is not None:
            self._decoder.finish()
        for name, (checksum, expected) in self._checks.items():
            computed = encoded(checksum)
            if expected.startswith("trailer:"):
                assert self._decoder is not None
                expected = self._decoder.trailers.get(expected.removeprefix("trailer:"), "")
            if computed != expected:
                raise ApiError(
                    "BadDigest", f"The {name.upper()} you specified did not match the calculated checksum."
                )
            self.checksums[name] = computed

    async def read(self, limit: int) -> bytes:
        """All of it, checked; raises ApiError if that is more than ``limit`` bytes."""
        pieces = bytearray()
        async for piece in self:
            self._reader.hold(len(piece), len(pieces), limit)
            pieces += piece
        return bytes(pieces)


def too_large(limit: int) -> ApiError:
    return ApiError("RequestEntityTooLarge", f"The request's body is larger than {limit} bytes.", 413)


def _incomplete() -> ApiError:
    return ApiError("IncompleteBody", "The body is not as long as its Content-Length header says.")


def promised_checks(
    headers: dict[str, str], trailer_names: frozenset[str]
) -> dict[str, tuple[Checksum, str]]:
    """The checksums that the client gave, or announced as trailers: running state and expected value.

    Raises ApiError for an algorithm that is not known, rather than let a body pass unchecked.
    """
    checks: dict[str, tuple[Checksum, str]] = {}
    for name, make in ALGORITHMS.items():
        header = HEADER_PREFIX + name
        if header in headers:
            checks[name] = (make(), headers[header])
        elif header in trailer_names:
            checks[name] = (make(), f"trailer:{header}")
    for header in trailer_names | {n for n in headers if n.startswith(HEADER_PREFIX)}:
        name = header.removeprefix(HEADER_PREFIX)
        if name not in ALGORITHMS and name not in ("algorithm", "mode", "type"):
            raise ApiError("InvalidRequest", f"The checksum {header[:64]} is not supported.")
    if "content-md5" in headers:
        checks["md5"] = (md5(), headers["content-md5"])
    return checks


def inflated(body: bytes, encoding: str, limit: int) -> bytes:
    """A body that was compressed for the way (CloudWatch's are). Raises ApiError beyond ``limit`` bytes."""
    if encoding.strip().lower() != "gzip":
        return body
    machine = zlib.decompressobj(wbits=31)
    try:
        whole = machine.decompress(body, limit)
    except zlib.error:
        raise InputError("malformed", "The body is not gzip") from None
    if machine.unconsumed_tail:
        raise too_large(limit)
    if not machine.eof:
        raise InputError("malformed", "The body ends within its compression")
    return whole


def payload_body(
    request: Request, reader: BodyReader, claim: sigv4.Claim, key: bytes, *, checksummed: bool
) -> Body:
    """The body of a verified request as its ``x-amz-content-sha256`` describes it.

    ``checksummed``: the operation's checksum headers are of its body. (CompleteMultipartUpload's is not.)
    """
    headers = request.headers
    payload = claim.payload
    names = frozenset(n.strip().lower() for n in headers.get("x-amz-trailer", "").split(",") if n.strip())
    if payload not in sigv4.STREAMING:
        if names:
            raise InputError("invalid", "Only a chunked payload has trailers", "x-amz-trailer")
        checked = "" if payload == sigv4.UNSIGNED else payload
        checks = promised_checks(headers, names) if checksummed else {}
        return Body(reader, length=_length(headers, "content-length"), sha256=checked, checks=checks)
    with_trailer = payload.endswith("-TRAILER")
    if bool(names) != with_trailer:
        raise InputError("invalid", "x-amz-trailer does not fit x-amz-content-sha256", "x-amz-trailer")
    signed = payload != sigv4.STREAMING_UNSIGNED_TRAILER
    signer = ChunkSigner(key, claim.timestamp, claim.scope, claim.signature) if signed else None
    length = _length(headers, "x-amz-decoded-content-length")
    if length is None:
        raise ApiError(
            "MissingContentLength", "You must provide the x-amz-decoded-content-length header.", 411
        )
    decoder = ChunkedDecoder(signer, names, signed_trailer=signed and with_trailer)
    return Body(reader, length=length, decoder=decoder, checks=promised_checks(headers, names))


def _length(headers: dict[str, str], name: str) -> int | None:
    text = headers.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise InputError("invalid", "a number of bytes is expected", name)
    return int(text)
