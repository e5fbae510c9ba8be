import asyncio
import os
import random
from pathlib import Path

import pytest

from gureum.errors import TransportError
from gureum.sim.link import SimLink, Weather, pair
from gureum.transport.files import CHUNK_BYTES, receive_file, send_file
from gureum.transport.messages import Chunk, Fetch, FileEnd, FileStart, Message

MIB = 1 << 20


async def fetch(source: Path, target: Path, bytes_max: int = 1 << 40) -> None:
    """Over a link whose messages are encoded as on the wire."""
    ours, theirs = pair(Weather(random.Random(1)))

    async def serve() -> None:
        message = await theirs.receive()
        assert isinstance(message, Fetch)
        await send_file(theirs, Path(message.path))

    async with asyncio.TaskGroup() as group:
        group.create_task(serve())
        await receive_file(ours, str(source), target, bytes_max)


async def played(target: Path, *messages: Message) -> None:
    """Receive from a manager that says this."""
    ours, theirs = pair(Weather(random.Random(1)))
    for message in messages:
        await theirs.send(message)
    await receive_file(ours, "x", target, 100)


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES - 1])
async def test_files_arrive_as_they_are(tmp_path: Path, size: int) -> None:
    (tmp_path / "a").write_bytes(random.Random(size).randbytes(size))
    await fetch(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()


async def test_holes_are_not_sent(tmp_path: Path) -> None:
    with open(tmp_path / "a", "wb") as file:
        file.truncate(64 * MIB)
        for position in (0, 20 * MIB, 64 * MIB - 4):
            file.seek(position)
            file.write(b"data")
    await fetch(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()
    assert os.stat(tmp_path / "b").st_blocks * 512 < MIB


async def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        await fetch(tmp_path / "a", tmp_path / "b")
    assert caught.group_contains(TransportError, match="the file cannot be read: No such file")
    assert not (tmp_path / "b").exists()


async def test_more_than_there_is_room_for(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 11)
    with pytest.raises(ExceptionGroup) as caught:
        await fetch(tmp_path / "a", tmp_path / "b", 10)
    assert caught.group_contains(TransportError, match="11 bytes, and there is room for 10")


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
    ours, theirs = pair(Weather(random.Random(1)))
    await theirs.send(START)
    await theirs.send(Chunk(0, b"abc"))

    async def cut(link: SimLink) -> None:
        await asyncio.sleep(0.05)
        await link.close()

    async with asyncio.TaskGroup() as group:
        group.create_task(cut(theirs))
        with pytest.raises(TransportError):
            await receive_file(ours, "x", tmp_path / "b", 100)
    assert list(tmp_path.iterdir()) == []
