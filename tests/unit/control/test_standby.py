"""What a manager that stands by fetches, and finds when it leads."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gureum.control import standby
from gureum.control.standby import Mirror
from gureum.errors import TransportError
from gureum.resources import Image, ImageState, ManagerMachine
from gureum.store.postgres.address import Address
from gureum.transport.files import send_file
from gureum.transport.link import StreamLink, connect, listen
from gureum.transport.messages import Fetch, Refused

STORE = Address.parse("postgresql://me@/cloud?host=/run")


def image(id: str, disk: str, **more: Any) -> Image:
    return Image(
        id=id, name=id, **more, disk_format="raw", disk_bytes=1, created=datetime(2026, 1, 1, tzinfo=UTC),
        architecture="x86_64", root_device="/dev/xvda", snapshot="snap-1", disk=disk,
    )  # fmt: skip


def test_files_of_images_that_were_built_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    for state, name in ((there, "far"), (here, "near")):
        (state / "images" / name).mkdir(parents=True)
        (state / "images" / name / "disk").write_text(name)
    far, near = (str(state / "images" / name / "disk") for state, name in ((there, "far"), (here, "near")))
    kernel = str(there / "images/far/kernel")
    Path(kernel).write_text("kernel")
    machines = [ManagerMachine(id="second", agents="192.0.2.2:4567", endpoint="")]
    records: dict[Any, list[Any]] = {
        ManagerMachine: machines,
        Image: [
            image("0", str(there / "images/lost/disk")),
            image("a", far),
            image("b", near),
            image("c", str(there / "images/old/disk"), kernel=kernel, state=ImageState.deregistered),
        ],
    }
    asked: list[str] = []
    failing = [OSError("the disk is full")]

    async def glance(store: Address, kind: Any) -> list[Any]:
        assert store == STORE
        if failing:
            raise failing.pop()
        return records[kind]

    async def serve(link: Any) -> None:
        message = await link.receive()
        assert isinstance(message, Fetch)
        if not Path(message.path).exists():
            await link.send(Refused("no such file"))
            return
        asked.append(message.path)
        await send_file(link, Path(message.path))

    async def connected(_: Mirror) -> StreamLink:
        return await connect(tmp_path / "s")

    monkeypatch.setattr(standby, "glance", glance)
    monkeypatch.setattr(standby, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(Mirror, "_connect", connected)

    async def main() -> None:
        server = await listen(tmp_path / "s", serve)
        mirror = Mirror(here, "second")
        keeping = asyncio.create_task(mirror.keep(STORE))
        await asyncio.sleep(0.1)
        assert asked == []  # it is the only one: there is nobody to ask
        machines.append(ManagerMachine(id="first", agents="192.0.2.1:4567", endpoint=""))
        fetched = mirror._files.file(kernel)
        while not fetched.exists():  # noqa: ASYNC110 - there is nothing to wait for
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        assert asked == [far, kernel]
        server.close()

    asyncio.run(main())
    (there / "images/far/disk").unlink()
    found = Mirror(here, "second")
    assert found.find(far).read_text() == "far"
    assert found.find(near) == Path(near)
    with pytest.raises(TransportError, match="was built on another machine"):
        found.find(str(there / "images/new/disk"))
