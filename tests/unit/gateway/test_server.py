from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from gureum.errors import ConfigError
from gureum.gateway.limits import Limits
from gureum.gateway.server import JOINED_BYTES_MAX, Joined, Server, is_loopback, listen

TIGHT = Limits(
    header_bytes_max=2000,
    headers_max=10,
    header_seconds_max=0.3,
    body_idle_seconds_max=0.3,
    body_bytes_per_second_min=100,
    connections_max=3,
)
REQUEST = b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\n\r\nhello"


class App:
    """Reads the body and answers its length; ``slow`` waits for ``go`` before it reads."""

    def __init__(self, slow: bool = False) -> None:
        self.go = asyncio.Event()
        self.called = asyncio.Event()
        self.slow = slow
        self.calls = 0

    async def __call__(
        self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        self.calls += 1
        self.called.set()
        if self.slow:
            await self.go.wait()
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return
            size += len(message["body"])
            more = message["more_body"]
        text = str(size).encode()
        headers = [(b"content-length", str(len(text)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": text})


@asynccontextmanager
async def running(app: App, limits: Limits = TIGHT) -> AsyncIterator[Server]:
    server = await listen(app, port=0, limits=limits)
    try:
        yield server
    finally:
        app.go.set()
        await server.stop(1.0)


@asynccontextmanager
async def connected(server: Server) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def answer_to(server: Server, data: bytes) -> bytes:
    """All that comes back until the server closes, which it must."""
    async with connected(server) as (reader, writer):
        writer.write(data)
        return await asyncio.wait_for(reader.read(), 10)


async def response(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    return head, await reader.readexactly(length)


async def test_connection_is_kept() -> None:
    async with running(App()) as server, connected(server) as (reader, writer):
        for _ in range(3):
            writer.write(REQUEST)
            head, body = await response(reader)
            assert head.startswith(b"HTTP/1.1 200 OK\r\ndate: ")
            assert body == b"5"
        assert server.requests == 3


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with running(App()) as server, connected(server) as (reader, writer):
        writer.write(REQUEST + REQUEST.replace(b": 5", b": 2").replace(b"hello", b"hi") + REQUEST)
        assert [(await response(reader))[1] for _ in range(3)] == [b"5", b"2", b"5"]


async def test_expect_continue() -> None:
    async with running(App()) as server, connected(server) as (reader, writer):
        writer.write(b"PUT / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"hi")
        assert (await response(reader))[1] == b"2"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\nx: " + b"a" * 3000 + b"\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nx: " + b"a" * 3000, b"431"),
        (b"GET /" + b"a" * 3000, b"431"),
        (b"GET / HTTP/1.1\r\n" + b"".join(b"h%d: 1\r\n" % i for i in range(20)) + b"\r\n", b"431"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", b"400"),
        (b"CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n", b"400"),
        (b"GET /\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n", b"400"),
        (b"GET http:// HTTP/1.1\r\nhost: x\r\n\r\n", b"400"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"400"),
    ],
)
async def test_refused(data: bytes, status: bytes) -> None:
    app = App()
    async with running(app) as server:
        assert (await answer_to(server, data)).startswith(b"HTTP/1.1 " + status)
        assert app.calls == 0


@pytest.mark.parametrize("offer", [b"h2c", b"websocket"])
async def test_upgrade_is_ignored(offer: bytes) -> None:
    head = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: %s\r\n\r\n" % offer
    async with running(App()) as server:
        assert (await answer_to(server, head)).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"POST / HT",
        b"POST / HTTP/1.1\r\nhost: x\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc",
    ],
)
async def test_late_request_is_cut_off(data: bytes) -> None:
    async with running(App()) as server:
        answer = await answer_to(server, data)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 408")


async def test_trickling_headers_do_not_extend_the_deadline() -> None:
    async with running(App()) as server, connected(server) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\n")

        async def trickle() -> None:
            for number in range(1000):
                writer.write(b"h%d: 1\r\n" % (number % 5))
                await asyncio.sleep(0.1)

        task = asyncio.create_task(trickle())
        answer = await asyncio.wait_for(reader.read(), 10)
        task.cancel()
        assert answer.startswith((b"HTTP/1.1 408", b"HTTP/1.1 431"))


async def test_trickling_body_is_too_slow() -> None:
    limits = Limits(body_idle_seconds_max=0.3, body_bytes_per_second_min=1000)
    async with running(App(), limits) as server, connected(server) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n")

        async def trickle() -> None:
            while True:
                writer.write(b"a")
                await asyncio.sleep(0.1)

        task = asyncio.create_task(trickle())
        await asyncio.wait_for(reader.read(), 10)
        task.cancel()


async def test_client_is_not_late_while_the_gateway_does_not_read() -> None:
    app = App(slow=True)
    async with running(app) as server, connected(server) as (reader, writer):
        body = b"x" * 1_000_000
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n" + body)
        await asyncio.sleep(2.5)  # more than two sweeps after every deadline
        app.go.set()
        assert (await response(reader))[1] == b"1000000"


async def test_idle_connection_is_not_cut_off_before_keep_alive_ends() -> None:
    async with running(App()) as server, connected(server) as (reader, writer):
        writer.write(REQUEST)
        await response(reader)
        await asyncio.sleep(1.6)
        writer.write(REQUEST)
        assert (await response(reader))[1] == b"5"


async def test_client_that_does_not_read_its_answer() -> None:
    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})
            await asyncio.sleep(0.01)

    server = await listen(endless, port=0, limits=Limits(answer_stalled_seconds_max=0.2))
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1 << 16)
    writer.write(REQUEST)
    await asyncio.sleep(3)  # the reader's buffer, the kernel's and the server's fill, then a sweep comes by
    read = 0
    with suppress(ConnectionError):
        while piece := await asyncio.wait_for(reader.read(1 << 16), 10):
            read += len(piece)
    assert read < 100 << 20  # what was under way when the server gave up
    writer.close()
    await server.stop(0.05)


async def test_connections_are_bounded() -> None:
    async with running(App()) as server:
        held = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(3)]
        for reader, writer in held:
            writer.write(REQUEST)
            await response(reader)
        assert (await answer_to(server, REQUEST)).startswith(b"HTTP/1.1 503")
        for _, writer in held:
            writer.close()


async def test_stop_lets_running_requests_end() -> None:
    app = App(slow=True)
    async with running(app) as server, connected(server) as (reader, writer):
        writer.write(REQUEST)
        await app.called.wait()
        stopping = asyncio.create_task(server.stop())
        await asyncio.sleep(0)
        app.go.set()
        assert (await response(reader))[1] == b"5"
        await stopping
        with pytest.raises(OSError, match=r"."):
            await asyncio.open_connection("127.0.0.1", server.port or 1)


async def test_stop_cuts_off_what_does_not_end(caplog: pytest.LogCaptureFixture) -> None:
    app = App(slow=True)
    async with running(app) as server, connected(server) as (reader, writer):
        writer.write(REQUEST)
        await app.called.wait()
        await server.stop(0.05)
        assert b"200 OK" not in await reader.read()
    assert "did not end" in caplog.text


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com", ""])
async def test_other_addresses_need_tls(host: str) -> None:
    with pytest.raises(ConfigError, match="without TLS"):
        await listen(App(), host=host, port=0)


async def test_other_addresses_with_tls() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server = await listen(App(), host="0.0.0.0", port=0, ssl_context=context)
    assert server.port > 0
    await server.stop()


async def test_taken_port() -> None:
    async with running(App()) as server:
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{server.port}"):
            await listen(App(), port=server.port)


def test_loopback() -> None:
    assert all(map(is_loopback, ["127.0.0.1", "127.9.9.9", "::1", "localhost"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "10.0.0.1", "localhost.example.com"]))


class Recorder(asyncio.Transport):
    """A transport that keeps what is written, each write by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def recorded(method: str = "POST", keep_alive: bool = True) -> tuple[RequestResponseCycle, Recorder]:
    """A request's cycle as the server starts it, and what it writes to."""
    transport = Recorder()
    cycle = RequestResponseCycle(
        scope={"type": "http", "method": method},  # type: ignore[typeddict-item]
        transport=transport,
        flow=FlowControl(transport),
        logger=logging.getLogger("test"),
        access_logger=logging.getLogger("test"),
        access_log=False,
        default_headers=[],
        message_event=asyncio.Event(),
        expect_100_continue=True,
        keep_alive=keep_alive,
        on_response=lambda: None,
    )
    cycle.transport = Joined(cycle)  # type: ignore[assignment]
    return cycle, transport


async def answer(cycle: RequestResponseCycle, *pieces: bytes, headers: Any = ()) -> None:
    await cycle.send({"type": "http.response.start", "status": 200, "headers": headers})
    for left, piece in zip(reversed(range(len(pieces))), pieces, strict=True):
        await cycle.send({"type": "http.response.body", "body": piece, "more_body": left > 0})


@pytest.mark.parametrize("size", [0, 1, JOINED_BYTES_MAX])
async def test_a_small_answer_is_one_write(size: int) -> None:
    cycle, transport = recorded()
    await answer(cycle, b"x" * size, headers=[(b"content-length", str(size).encode())])
    [written] = transport.writes
    assert written.startswith(b"HTTP/1.1 200 OK\r\n")
    assert written.endswith(b"\r\n\r\n" + b"x" * size)


async def test_pieces_are_written_as_they_come() -> None:
    cycle, transport = recorded()
    await answer(cycle, b"one", b"two")
    assert [write[-8:] for write in transport.writes] == [b"3\r\none\r\n", b"3\r\ntwo\r\n0\r\n\r\n"[-8:]]
    assert transport.writes[0].startswith(b"HTTP/1.1 200 OK\r\n")


async def test_a_large_answer_is_not_copied() -> None:
    cycle, transport = recorded()
    size = JOINED_BYTES_MAX + 1
    await answer(cycle, b"x" * size, headers=[(b"content-length", str(size).encode())])
    assert len(transport.writes) == 2


async def test_the_head_alone_is_all_of_the_answer_to_head() -> None:
    cycle, transport = recorded("HEAD")
    await answer(cycle, b"", headers=[(b"content-length", b"9")])
    assert len(transport.writes) == 1


async def test_asking_for_the_body_is_no_head() -> None:
    cycle, transport = recorded(keep_alive=False)
    cycle.body, cycle.more_body = bytearray(b"hello"), False
    cycle.message_event.set()
    await cycle.receive()
    assert transport.writes == [b"HTTP/1.1 100 Continue\r\n\r\n"]
    await answer(cycle, b"5", headers=[(b"content-length", b"1")])
    assert len(transport.writes) == 2
    assert transport.closed


async def test_a_head_that_nothing_follows_is_written_at_the_end() -> None:
    cycle, transport = recorded()
    await answer(cycle, headers=[(b"content-length", b"9")])
    assert transport.writes == []
    cycle.transport.close()
    assert len(transport.writes) == 1
    assert transport.closed
