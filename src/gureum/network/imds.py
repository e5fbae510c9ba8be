"""The instance metadata service: HTTP at 169.254.169.254, one listener a port.

The caller is known by the tap its connection came through. What it says about itself (addresses, headers)
is not looked at.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import Callable
from urllib.parse import unquote

import msgspec

from gureum.errors import NetworkError
from gureum.hostspec import Metadata
from gureum.network.filters import METADATA_ADDRESS
from gureum.network.metadata import VERSIONS, render
from gureum.network.tokens import TTL_SECONDS_MAX, Tokens

log = logging.getLogger(__name__)

HEAD_BYTES_MAX = 8192
HEADERS_MAX = 64
BODY_BYTES_MAX = 1024
REQUEST_SECONDS_MAX = 10.0
CONNECTIONS_MAX = 32
"""Open connections a port may have; more are closed at once."""
REQUESTS_MAX = 256
"""Requests of one connection."""
TTL_HEADER = "x-aws-ec2-metadata-token-ttl-seconds"
TOKEN_HEADER = "x-aws-ec2-metadata-token"
_REQUEST_LINE = re.compile(r"([A-Z]{1,16}) (/[\x21-\x7e]*) HTTP/1\.([01])")
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x20-\x7e\x80-\xff\t]*?)[ \t]*")
_REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    413: "Payload Too Large",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """``headers`` have lower-case names; one that comes twice makes the request malformed."""

    method: str
    path: str
    headers: dict[str, str] = {}
    keep_alive: bool = True


class Response(msgspec.Struct, frozen=True, kw_only=True):
    status: int
    body: bytes = b""
    headers: dict[str, str] = {}


def parse_head(head: bytes) -> Request | None:
    """A request from its head, without the empty line; None if it is malformed."""
    first, *rest = head.decode("latin-1").split("\r\n")
    line = _REQUEST_LINE.fullmatch(first)
    if not line or len(rest) > HEADERS_MAX:
        return None
    headers: dict[str, str] = {}
    for text in rest:
        header = _HEADER.fullmatch(text)
        if not header or header[1].lower() in headers:
            return None
        headers[header[1].lower()] = header[2]
    connection = headers.get("connection", "").lower()
    keep_alive = connection != "close" if line[3] == "1" else connection == "keep-alive"
    return Request(
        method=line[1], path=unquote(line[2].partition("?")[0]), headers=headers, keep_alive=keep_alive
    )


def respond(request: Request, metadata: Metadata | None, tokens: Tokens) -> Response:
    """The service's answer to the instance that ``metadata`` is about (None: not known yet)."""
    if metadata is None:
        return _error(503)
    if not metadata.enabled:
        return _error(403)
    if request.method == "PUT":
        return _put_token(request, metadata, tokens)
    if request.method not in ("GET", "HEAD"):
        return _error(405)
    token = request.headers.get(TOKEN_HEADER)
    if token is None and metadata.tokens_required:
        return _error(401)
    if token is not None and not tokens.valid(metadata.instance, token):
        return _error(401)
    body = render(metadata, request.path)
    if body is None:
        return _error(404)
    kind = "application/octet-stream" if request.path.endswith("/user-data") else "text/plain"
    return Response(status=200, body=body, headers={"Content-Type": kind})


def _put_token(request: Request, metadata: Metadata, tokens: Tokens) -> Response:
    parts = [part for part in request.path.split("/") if part]
    if len(parts) != 3 or parts[0] not in VERSIONS or parts[1:] != ["api", "token"]:
        return _error(405 if parts[1:2] == ["meta-data"] else 404)
    if "x-forwarded-for" in request.headers:
        # A proxy passes this on from somewhere else: the request does not come from the instance itself.
        return _error(403)
    ttl = request.headers.get(TTL_HEADER, "")
    if not re.fullmatch(r"[0-9]{1,5}", ttl) or not 1 <= int(ttl) <= TTL_SECONDS_MAX:
        return _error(400)
    token = tokens.issue(metadata.instance, int(ttl))
    headers = {"Content-Type": "text/plain", "X-Aws-Ec2-Metadata-Token-Ttl-Seconds": ttl}
    return Response(status=200, body=token.encode(), headers=headers)


def _error(status: int) -> Response:
    text = f"{status} - {_REASONS[status]}"
    body = (
        '<?xml version="1.0" encoding="iso-8859-1"?>\n'
        '<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN" '
        '"http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd">\n'
        '<html xmlns="http://www.w3.org/1999/xhtml" xml:lang="en" lang="en">\n'
        f" <head>\n  <title>{text}</title>\n </head>\n <body>\n  <h1>{text}</h1>\n </body>\n</html>\n"
    )
    return Response(status=status, body=body.encode(), headers={"Content-Type": "text/html"})


def listen(tap: str) -> socket.socket:
    """A socket for the service, made in the calling thread's namespace."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, tap.encode())
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((METADATA_ADDRESS, 80))
        sock.listen(CONNECTIONS_MAX)
    except OSError as error:
        sock.close()
        raise NetworkError(f"cannot serve metadata on {tap}: {error.strerror}") from error
    return sock


class MetadataServer:
    """The service of one port. ``lookup`` returns the metadata of the port's instance."""

    def __init__(self, sock: socket.socket, lookup: Callable[[], Metadata | None], tokens: Tokens) -> None:
        self._socket = sock
        self._lookup = lookup
        self._tokens = tokens
        self._connections: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock.fileno(), self._accept)

    def close(self) -> None:
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        for task in self._connections:
            task.cancel()

    def _accept(self) -> None:
        try:
            connection, _ = self._socket.accept()
        except OSError:
            return
        if len(self._connections) >= CONNECTIONS_MAX:
            connection.close()
            return
        connection.setblocking(False)
        task = self._loop.create_task(self._serve(connection))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, connection: socket.socket) -> None:
        try:
            reader, writer = await asyncio.open_connection(sock=connection, limit=HEAD_BYTES_MAX)
        except OSError:
            connection.close()
            return
        try:
            for _ in range(REQUESTS_MAX):
                async with asyncio.timeout(REQUEST_SECONDS_MAX):
                    if not await self._exchange(reader, writer, connection):
                        break
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            pass
        finally:
            if writer.transport.get_write_buffer_size():
                writer.transport.abort()
            writer.close()

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: socket.socket
    ) -> bool:
        """Serve one request. False: the connection is to be closed."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            await _write(writer, _error(431), keep_alive=False)
            return False
        request = parse_head(head[:-4])
        length = _body_length(request)
        if request is None or length is None:
            await _write(writer, _error(400), keep_alive=False)
            return False
        if length > BODY_BYTES_MAX:
            await _write(writer, _error(413), keep_alive=False)
            return False
        await reader.readexactly(length)
        metadata = self._lookup()
        response = respond(request, metadata, self._tokens)
        if request.method == "PUT" and metadata is not None:
            # The hop limit is for answers that carry a token: they die in a container's or proxy's router.
            connection.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, min(max(metadata.hop_limit, 1), 64))
        await _write(writer, response, request.keep_alive, with_body=request.method != "HEAD")
        return request.keep_alive


def _body_length(request: Request | None) -> int | None:
    if request is None or "transfer-encoding" in request.headers:
        return None
    text = request.headers.get("content-length", "0")
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else None


async def _write(
    writer: asyncio.StreamWriter, response: Response, keep_alive: bool, with_body: bool = True
) -> None:
    headers = {
        **response.headers,
        "Content-Length": str(len(response.body)),
        "Server": "EC2ws",
        "Connection": "keep-alive" if keep_alive else "close",
    }
    lines = [f"HTTP/1.1 {response.status} {_REASONS[response.status]}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
    writer.write(head + response.body if with_body else head)
    await writer.drain()
