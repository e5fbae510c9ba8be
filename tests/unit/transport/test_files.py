import asyncio
import contextlib
import os
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gureum.errors import TransportError
from gureum.transport.files import CHUNK_BYTES, receive_file, send_file
from gureum.transport.link import StreamLink
from gureum.transport.messages import Chunk, Fetch, FileEnd, FileStart, Message

MIB = 1 << 20


@asynccontextmanager
async def links() -> AsyncIterator[tuple[StreamLink, StreamLink]]:
    """Two ends."""
    ends = [StreamLink(*await asyncio.open_unix_connection(sock=end)) for end in socket.socketpair()]
    try:
        yield ends[0], ends[1]
    finally:
        for end in ends:
            await end.close()


async def fetch(source: Path, target: Path, bytes_max: int = 1 << 40) -> None:
    async with links() as (ours, theirs):

        async def serve() -> None:
            message = await theirs.receive()
            assert isinstance(message, Fetch)
            with contextlib.suppress(TransportError):
                await send_file(theirs, Path(message.path))

        serving = asyncio.create_task(serve())
        try:
            await receive_file(ours, str(source), target, bytes_max)
        finally:
            await ours.close()
            await serving


async def played(target: Path, *messages: Message) -> None:
    """Receive from a manager that says this."""
    async with links() as (ours, theirs):
        for message in messages:
            await theirs.send(message)
        await receive_file(ours, "x", target, 100)


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES - 1])
async def test_files_arrive_as_they_are(tmp_path: Path, size: int) -> None:
    (tmp_path / "a").write_bytes(random.Random(size).randbytes(size))
    await fetch(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()


async def test_holes_are_not_sent(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    os.truncate(tmp_path / "a", 64 * MIB)
    file = os.open(tmp_path / "a", os.O_WRONLY)
    for position in (0, 20 * MIB, 64 * MIB - 4):
        os.pwrite(file, b"data", position)
    os.close(file)
    await fetch(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()
    assert os.stat(tmp_path / "b").st_blocks * 512 < MIB


async def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TransportError, match="the file cannot be read: No such file"):
        await fetch(tmp_path / "a", tmp_path / "b")
    assert not (tmp_path / "b").exists()


async def test_more_than_there_is_room_for(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 11)
    with pytest.raises(TransportError, match="11 bytes, more than the 10"):
        await fetch(tmp_path / "a", tmp_path / "b", 10)


START, END = FileStart(10), FileEnd(bytes(32))


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ([START, Chunk(0, b"abc"), END], "did not arrive as it was sent"),
        ([START, END], "did not arrive as it was sent"),
        ([START, Chunk(8, b"abc")], "does not belong there"),
        ([START, Chunk(4, b"abc"), Chunk(5, b"abc")], "does not belong there"),
        ([START, START], "did not arrive as it was sent"),
        ([END], "sent FileEnd"),
    ],
)
async def test_what_is_not_whole_is_not_kept(tmp_path: Path, messages: list[Message], error: str) -> None:
    with pytest.raises(TransportError, match=error):
        await played(tmp_path / "b", *messages)
    assert list(tmp_path.iterdir()) == []


async def test_a_link_that_breaks_leaves_nothing(tmp_path: Path) -> None:
    async with links() as (ours, theirs):
        await theirs.send(START)
        await theirs.send(Chunk(0, b"abc"))
        await theirs.close()
        with pytest.raises(TransportError):
            await receive_file(ours, "x", tmp_path / "b", 100)
    assert list(tmp_path.iterdir()) == []
