from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from gureum.agent.images import FetchingPool
from gureum.env import Env
from gureum.errors import PoolError, TransportError
from gureum.images import fetched as images
from gureum.images.fetched import Fetched
from gureum.transport.files import send_file
from gureum.transport.link import StreamLink, connect, listen
from gureum.transport.messages import Fetch


class Manager:
    """Sends files, and counts how often; or says no, or breaks off."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.asked: list[str] = []
        self.broken = False

    async def serve(self, link: Any) -> None:
        message = await link.receive()
        assert isinstance(message, Fetch)
        self.asked.append(message.path)
        if self.broken:
            raise TransportError("broken")
        await send_file(link, Path(message.path))

    async def connect(self) -> StreamLink:
        return await connect(self.socket)


def with_manager(tmp_path: Path, test: Callable[[Manager, Fetched], Awaitable[None]]) -> None:
    async def main() -> None:
        manager = Manager(tmp_path / "s")
        server = await listen(manager.socket, manager.serve)
        fetched = Fetched(tmp_path / "fetched", manager.connect)
        fetched.open()
        await test(manager, fetched)
        server.close()

    asyncio.run(main())


def test_what_is_kept_is_fetched_once(tmp_path: Path) -> None:
    kernel = tmp_path / "vmlinux"
    kernel.write_bytes(b"kernel" * 1000)

    async def test(manager: Manager, fetched: Fetched) -> None:
        found = await asyncio.gather(*(fetched.kept(str(kernel)) for _ in range(3)))
        assert len(set(found)) == 1
        assert found[0].read_bytes() == kernel.read_bytes()
        assert found[0] != kernel
        assert found[0].stat().st_mode & 0o777 == 0o644
        again = Fetched(tmp_path / "fetched", manager.connect)
        again.open()
        assert await again.kept(str(kernel)) == found[0]
        assert manager.asked == [str(kernel)]

    with_manager(tmp_path, test)


def test_what_is_borrowed_goes_again(tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(b"disk" * 1000)

    async def test(manager: Manager, fetched: Fetched) -> None:
        async with fetched.borrowed(str(disk)) as file:
            assert file.read_bytes() == disk.read_bytes()
        assert list((tmp_path / "fetched").iterdir()) == []

    with_manager(tmp_path, test)


def test_a_failure_leaves_nothing_and_the_next_try_works(tmp_path: Path) -> None:
    kernel = tmp_path / "vmlinux"
    kernel.write_bytes(b"kernel")

    async def test(manager: Manager, fetched: Fetched) -> None:
        manager.broken = True
        with pytest.raises(PoolError, match="could not be fetched"):
            await fetched.kept(str(kernel))
        assert list((tmp_path / "fetched").iterdir()) == []
        manager.broken = False
        assert (await fetched.kept(str(kernel))).read_bytes() == b"kernel"
        with pytest.raises(PoolError, match="could not be fetched"):
            await fetched.kept(str(tmp_path / "nosuch"))

    with_manager(tmp_path, test)


def test_only_files_of_images_are_there(tmp_path: Path) -> None:
    (tmp_path / "cloud/images/tiny").mkdir(parents=True)
    disk, key = tmp_path / "cloud/images/tiny/disk", tmp_path / "cloud/key"
    for file in (disk, key):
        file.touch()
    linked = tmp_path / "cloud/images/linked"
    linked.symlink_to(disk.parent)  # root put it where there is room
    for file in (disk, linked / "disk"):
        assert images.built_here(tmp_path / "cloud", str(file)) == file
    for path in ("images/../key", "images/tiny/../../key", "key", "images/none/disk"):
        assert images.built_here(tmp_path / "cloud", f"{tmp_path}/cloud/{path}") is None


def test_what_a_killed_agent_left_is_removed(tmp_path: Path) -> None:
    async def test(_manager: Manager, fetched: Fetched) -> None:
        (tmp_path / "fetched" / f"ab{images.UNFINISHED}").touch()
        (tmp_path / "fetched" / f"cd{images.ONCE}").touch()
        fetched.open()
        assert list((tmp_path / "fetched").iterdir()) == []

    with_manager(tmp_path, test)


def test_few_files_are_kept(tmp_path: Path) -> None:
    kernels = [tmp_path / f"vmlinux{number}" for number in range(3)]

    async def test(manager: Manager, fetched: Fetched) -> None:
        fetched._kept_max = 2
        kept = []
        for age, kernel in enumerate(kernels):
            kernel.touch()
            kept.append(await fetched.kept(str(kernel)))
            os.utime(kept[-1], (age, age))
        assert [file.exists() for file in kept] == [False, True, True]

    with_manager(tmp_path, test)


def test_a_pool_fetches_a_disk_once(tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(b"\1" * (1 << 20))

    async def test(manager: Manager, fetched: Fetched) -> None:
        pool = FetchingPool(Env(), tmp_path / "pool", fetched)
        for _ in range(2):
            await pool.add_image("ami-00000000000000001", str(disk), "raw", 1 << 20)
        await pool.create_volume("vol-00000000000000001", 1 << 20, "ami-00000000000000001")
        await pool.close()
        assert manager.asked == [str(disk)]

    with_manager(tmp_path, test)
