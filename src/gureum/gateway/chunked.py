"""aws-chunked: bodies in chunks, each signed or not, with trailers behind them.

``size[;chunk-signature=hex] CRLF data CRLF`` ..., a chunk of size 0, trailers, an empty line. A signed chunk
is hashed as it passes and checked at its end, so nothing is held back: who reads must not act before the end.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterator
from typing import Literal

from gureum.gateway.errors import AuthError, AuthFault
from gureum.gateway.scalars import InputError

LINE_BYTES_MAX = 8 * 1024
TRAILERS_MAX = 16
_EMPTY = hashlib.sha256(b"").hexdigest()
_SIZE = re.compile(rb"([0-9a-fA-F]{1,15})(?:;chunk-signature=([0-9a-f]{64}))?\Z")


class ChunkSigner:
    """The chain of signatures: each covers the one before it, the first that of the headers."""

    def __init__(self, key: bytes, timestamp: str, scope: str, seed: str) -> None:
        self._key = key
        self._head = f"{timestamp}\n{scope}\n"
        self._previous = seed

    def check_chunk(self, digest: str, signature: str) -> None:
        self._check("AWS4-HMAC-SHA256-PAYLOAD", f"{_EMPTY}\n{digest}", signature)

    def check_trailer(self, digest: str, signature: str) -> None:
        self._check("AWS4-HMAC-SHA256-TRAILER", digest, signature)

    def _check(self, algorithm: str, tail: str, signature: str) -> None:
        to_sign = f"{algorithm}\n{self._head}{self._previous}\n{tail}"
        expected = hmac.digest(self._key, to_sign.encode(), "sha256").hex()
        if not hmac.compare_digest(expected, signature):
            raise AuthError(AuthFault.MISMATCH)
        self._previous = signature


class ChunkedDecoder:
    """Bytes of an aws-chunked body in, bytes of the object out. ``signer`` is None for unsigned chunks.

    Raises InputError for a body that is not well-formed, AuthError for one that was altered.
    """

    def __init__(
        self, signer: ChunkSigner | None, trailer_names: frozenset[str], *, signed_trailer: bool
    ) -> None:
        self._signer = signer
        self._trailer_names = trailer_names
        self._signed_trailer = signed_trailer
        self._state: Literal["size", "data", "data end", "trailer", "done"] = "size"
        self._line = bytearray()
        self._left = 0
        self._signature = ""
        self._hash = hashlib.sha256()
        self.trailers: dict[str, str] = {}

    def feed(self, data: bytes) -> Iterator[bytes]:
        view = memoryview(data)
        while view:
            if self._state == "data":
                piece = bytes(view[: self._left])
                view = view[len(piece) :]
                self._take(piece)
                yield piece
            elif self._state == "done":
                raise InputError("malformed", "The body goes on after its last chunk")
            else:
                view = self._collect_line(view)

    def finish(self) -> None:
        if self._state != "done":
            raise InputError("malformed", "The body ended within a chunk")

    def _take(self, piece: bytes) -> None:
        self._left -= len(piece)
        if self._signer is not None:
            self._hash.update(piece)
        if self._left == 0:
            self._state = "data end"
            self._check_chunk()

    def _check_chunk(self) -> None:
        if self._signer is not None:
            self._signer.check_chunk(self._hash.hexdigest(), self._signature)
            self._hash = hashlib.sha256()

    def _collect_line(self, view: memoryview) -> memoryview:
        taken = bytes(view[:LINE_BYTES_MAX])
        end = taken.find(b"\n")
        self._line += taken if end < 0 else taken[:end]
        if len(self._line) > LINE_BYTES_MAX:
            raise InputError("malformed", "A line of the chunked body is too long")
        if end < 0:
            return view[len(taken) :]
        line = bytes(self._line)
        self._line.clear()
        if self._state != "trailer" and not line.endswith(b"\r"):
            raise InputError("malformed", "A line of the chunked body does not end with CR LF")
        line = line.removesuffix(b"\r")
        self._on_line(line)
        return view[end + 1 :]

    def _on_line(self, line: bytes) -> None:
        if self._state == "size":
            self._on_size(line)
        elif self._state == "data end":
            if line:
                raise InputError("malformed", "A chunk is longer than it says")
            self._state = "size"
        elif line:
            self._on_trailer(line)
        else:
            self._check_trailers()
            self._state = "done"

    def _on_size(self, line: bytes) -> None:
        match = _SIZE.match(line)
        if match is None:
            raise InputError("malformed", "A chunk does not begin with its size")
        self._left = int(match[1], 16)
        self._signature = (match[2] or b"").decode("ascii")
        if self._signer is not None and not self._signature:
            raise AuthError(AuthFault.MISMATCH, "A chunk is not signed.")
        if self._left:
            self._state = "data"
        else:
            self._check_chunk()
            self._state = "trailer"

    def _on_trailer(self, line: bytes) -> None:
        name, colon, value = line.decode("latin-1").partition(":")
        name = name.strip().lower()
        if not colon or name in self.trailers or len(self.trailers) >= TRAILERS_MAX:
            raise InputError("malformed", "A trailer is malformed, given twice or one too many")
        if name not in self._trailer_names and not (
            self._signed_trailer and name == "x-amz-trailer-signature"
        ):
            raise InputError("malformed", f"The trailer {name[:64]} was not announced in x-amz-trailer")
        self.trailers[name] = value.strip()

    def _check_trailers(self) -> None:
        signature = self.trailers.pop("x-amz-trailer-signature", "")
        if self._trailer_names - self.trailers.keys():
            raise InputError("malformed", "A trailer that was announced is missing")
        if self._signer is not None and self._signed_trailer:
            text = "".join(f"{name}:{value}\n" for name, value in self.trailers.items())
            self._signer.check_trailer(hashlib.sha256(text.encode("latin-1")).hexdigest(), signature)
