from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gureum.env import Env
from gureum.hostspec import Metadata
from gureum.network import imds
from gureum.network.imds import TOKEN_HEADER, TTL_HEADER, MetadataServer, Request, parse_head, respond
from gureum.network.tokens import KEY_BYTES, Tokens

METADATA = Metadata(
    instance="i-1",
    image="ami-1",
    type="t3.nano",
    account="1",
    region="us-east-1",
    zone="us-east-1a",
    reservation="r",
)
OPEN = msgspec.structs.replace(METADATA, tokens_required=False)
TOKENS = Tokens(Env(lambda: 1000.0, Random(1)), b"k" * KEY_BYTES)
ID = "/latest/meta-data/instance-id"


def put(ttl: str = "60", path: str = "/latest/api/token", **headers: str) -> Request:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request(method="PUT", path=path, headers={TTL_HEADER: ttl, **named})


def get(path: str = ID, token: str | None = None) -> Request:
    return Request(method="GET", path=path, headers={} if token is None else {TOKEN_HEADER: token})


def test_tokens_first() -> None:
    assert respond(get(), METADATA, TOKENS).status == 401
    token = respond(put(), METADATA, TOKENS)
    assert token.status == 200
    assert token.headers["X-Aws-Ec2-Metadata-Token-Ttl-Seconds"] == "60"
    found = respond(get(token=token.body.decode()), METADATA, TOKENS)
    assert (found.status, found.body) == (200, b"i-1")


def test_without_tokens_where_that_is_allowed() -> None:
    assert respond(get(), OPEN, TOKENS).body == b"i-1"
    assert respond(get(token="stale"), OPEN, TOKENS).status == 401


def test_a_token_of_another_instance() -> None:
    other = msgspec.structs.replace(METADATA, instance="i-2")
    token = respond(put(), other, TOKENS).body.decode()
    assert respond(get(token=token), METADATA, TOKENS).status == 401


@pytest.mark.parametrize("ttl", ["", "0", "21601", "-1", "1e3", "99999", "six"])
def test_bad_ttl(ttl: str) -> None:
    assert respond(put(ttl), METADATA, TOKENS).status == 400


@pytest.mark.parametrize(
    ("request_", "metadata", "status"),
    [
        (put(x_forwarded_for="10.0.0.1"), METADATA, 403),
        (put(path="/latest/api/tokens"), METADATA, 404),
        (put(path=ID), METADATA, 405),
        (Request(method="POST", path=ID), METADATA, 405),
        (Request(method="DELETE", path="/latest/api/token"), METADATA, 405),
        (get(), msgspec.structs.replace(METADATA, enabled=False), 403),
        (put(), msgspec.structs.replace(METADATA, enabled=False), 403),
        (get("/latest/none"), OPEN, 404),
        (get(), None, 503),
    ],
)
def test_errors(request_: Request, metadata: Metadata | None, status: int) -> None:
    found = respond(request_, metadata, TOKENS)
    assert found.status == status
    assert f"<title>{status}".encode() in found.body


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"GET / HTTP/2",
        b"GET /",
        b"get / HTTP/1.1",
        b"GET  / HTTP/1.1",
        b"GET http://x/ HTTP/1.1",
        b"GET / HTTP/1.1\r\nno colon",
        b"GET / HTTP/1.1\r\nspace : x",
        b"GET / HTTP/1.1\r\n folded",
        b"GET / HTTP/1.1\r\nA: 1\r\na: 2",
        b"GET / HTTP/1.1\r\nA: \x00",
        b"GET /\xff HTTP/1.1",
        b"GET / HTTP/1.1" + b"\r\nA%d: x" * 1,
        b"GET / HTTP/1.1" + b"".join(b"\r\nA%d: x" % n for n in range(65)),
    ],
)
def test_malformed_heads(head: bytes) -> None:
    if b"A%d" in head:
        assert parse_head(head) is not None, "an odd but legal name"
    else:
        assert parse_head(head) is None


def test_a_head() -> None:
    found = parse_head(b"GET /latest/tags%20x?y=1 HTTP/1.0\r\nHost:  a b \r\nX-Y:")
    assert found == Request(
        method="GET", path="/latest/tags x", headers={"host": "a b", "x-y": ""}, keep_alive=False
    )


@given(st.binary(max_size=300))
def test_any_bytes_as_head(data: bytes) -> None:
    request = parse_head(data)
    if request is not None:
        respond(request, METADATA, TOKENS)


@pytest.fixture
async def address() -> AsyncIterator[tuple[str, int]]:
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    server = MetadataServer(sock, lambda: OPEN, TOKENS)
    yield sock.getsockname()
    server.close()
    await asyncio.sleep(0)


async def talk(address: tuple[str, int], data: bytes) -> bytes:
    """All that comes back until the server closes."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(data)
    async with asyncio.timeout(5):
        found = await reader.read()
    writer.close()
    return found


async def test_keep_alive_and_close(address: tuple[str, int]) -> None:
    one = f"GET {ID} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    last = f"GET {ID} HTTP/1.1\r\nConnection: close\r\n\r\n".encode()
    found = await talk(address, one + one + last)
    assert found.count(b"HTTP/1.1 200 OK") == 3
    assert found.endswith(b"\r\n\r\ni-1")


async def test_head_has_no_body(address: tuple[str, int]) -> None:
    found = await talk(address, f"HEAD {ID} HTTP/1.0\r\n\r\n".encode())
    assert found.endswith(b"Connection: close\r\n\r\n")
    assert b"Content-Length: 3\r\n" in found


async def test_a_body_is_read_and_ignored(address: tuple[str, int]) -> None:
    data = f"PUT /latest/api/token HTTP/1.0\r\n{TTL_HEADER}: 5\r\nContent-Length: 3\r\n\r\nabc".encode()
    assert (await talk(address, data)).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nContent-Length: 5000\r\n\r\n", b"413"),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * 20000 + b"\r\n\r\n", b"431"),
    ],
)
async def test_bad_requests_end_the_connection(address: tuple[str, int], data: bytes, status: bytes) -> None:
    try:
        found = await talk(address, data)
    except ConnectionResetError:
        assert status == b"431", "only a peer that still sends is cut off"
    else:
        assert found.startswith(b"HTTP/1.1 " + status)


async def test_a_silent_peer_is_dropped(address: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imds, "REQUEST_SECONDS_MAX", 0.05)
    assert await talk(address, b"GET / HT") == b""


async def test_connections_are_bounded(address: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imds, "CONNECTIONS_MAX", 2)
    idle = [await asyncio.open_connection(*address) for _ in range(2)]
    await asyncio.sleep(0.05)
    with contextlib.suppress(ConnectionResetError):
        assert await talk(address, f"GET {ID} HTTP/1.0\r\n\r\n".encode()) == b""
    for _, writer in idle:
        writer.close()
    await asyncio.sleep(0.05)
    assert b"200 OK" in await talk(address, f"GET {ID} HTTP/1.0\r\n\r\n".encode())
