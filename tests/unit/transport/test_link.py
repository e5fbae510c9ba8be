import asyncio
from pathlib import Path

import pytest

from gureum.errors import TransportError
from gureum.hostspec import HostSpec
from gureum.transport.link import Link, connect, listen
from gureum.transport.messages import Call, Hello, Message, Reply, Spec, decode, encode

SPEC = Spec(HostSpec(cloud="c", host="h", revision=3))


@pytest.mark.parametrize(
    "message",
    [
        Hello(cloud="c", host="h", zone="", instance="x"),
        SPEC,
        Call(id=1, method="console", machine="i-1", max_bytes=10),
        Reply(id=1, data=b"\0\xff", error="no"),
    ],
)
def test_messages_survive_the_wire(message: Message) -> None:
    frame = encode(message)
    assert int.from_bytes(frame[:4], "big") == len(frame) - 4
    assert decode(frame[4:]) == message


@pytest.mark.parametrize("body", [b"", b"\x81", b"nonsense", b"\x81\xa4type\xa7unknown"])
def test_nonsense_is_a_transport_error(body: bytes) -> None:
    with pytest.raises(TransportError):
        decode(body)


async def test_a_link_carries_both_ways_and_tells_when_it_breaks(tmp_path: Path) -> None:
    served: list[Message] = []

    async def serve(link: Link) -> None:
        served.append(await link.receive())
        await link.send(SPEC)

    server = await listen(tmp_path / "agents.sock", serve)
    link = await connect(tmp_path / "agents.sock")
    hello = Hello(cloud="c", host="h", zone="", instance="x")
    await link.send(hello)
    assert await link.receive() == SPEC
    assert served == [hello]
    with pytest.raises(TransportError):
        await link.receive()
    await link.close()
    server.close()
    await server.wait_closed()


async def test_an_announced_length_over_the_bound_is_refused(tmp_path: Path) -> None:
    failed = asyncio.Event()

    async def serve(link: Link) -> None:
        with pytest.raises(TransportError, match="over the bound"):
            await link.receive()
        failed.set()

    server = await listen(tmp_path / "agents.sock", serve)
    reader, writer = await asyncio.open_unix_connection(tmp_path / "agents.sock")
    writer.write(b"\xff\xff\xff\xff")
    async with asyncio.timeout(5):
        await failed.wait()
        assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


async def test_no_manager_is_a_transport_error(tmp_path: Path) -> None:
    with pytest.raises(TransportError, match="no manager"):
        await connect(tmp_path / "agents.sock")
