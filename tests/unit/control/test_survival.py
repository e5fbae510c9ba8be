"""What is told of room for lost hosts, and when it is looked at."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from gureum.control.survival import Survival, outlooks, survivable
from gureum.errors import StoreError
from gureum.resources import Event, FleetSettings, HostState, InstanceState
from gureum.resources.placement import FLEET
from gureum.store.base import Change, Transaction

GIB = 1 << 30
ZONE = "us-east-1a"


class Watch:
    """Two hosts with room for two machines of 1 GiB each, and one that runs."""

    def __init__(self, bench: Any, make: Any) -> None:
        self.bench, self.make = bench, make
        self.survival = Survival(bench.env, bench.store)

    async def begin(self, survive: int) -> None:
        await self.put(
            *(self.make.host(f"host-{n}", zone=ZONE, memory_bytes=int(3.3 * GIB)) for n in range(2)),
            FleetSettings(id=FLEET, survive=survive),
        )
        await self.run("i-0", "host-0")
        async with self.bench.store.read() as reader:
            await self.survival.load(reader)

    async def run(self, id: str, host: str) -> None:
        await self.put(
            self.make.instance(id, host=host, state=InstanceState.running),
            self.make.attached(f"vol-{id}", instances=[id], pool="san"),
        )

    async def put(self, *records: Any) -> None:
        await self.bench.put(*records)
        for record in records:
            now = await self.bench.get(type(record), record.id)
            self.survival.changed(Change(1, now.kind, now.id, now))

    async def told(self) -> list[str]:
        """The events that a look brings."""
        async with self.bench.store.read() as reader:
            before = {each.id for each in await reader.find(Event)}
        await self.survival.step()
        async with self.bench.store.read() as reader:
            found = [each for each in await reader.find(Event) if each.id not in before]
        settings = await self.bench.get(FleetSettings, FLEET)
        self.survival.changed(Change(1, settings.kind, settings.id, settings))
        return [f"{each.name}: {each.message}" for each in found]


@pytest.fixture
def watch(bench: Any, make: Any) -> Watch:
    return Watch(bench, make)


async def test_it_is_told_once_that_room_is_short_and_once_that_it_is_kept_again(watch: Watch) -> None:
    await watch.begin(1)
    assert await watch.told() == []
    for n in range(3):
        await watch.run(f"i-{n + 1}", f"host-{n % 2}")
    [text] = await watch.told()
    assert text.startswith(
        "RoomIsShort: the loss of a host would not be survived now: zone us-east-1a: if host"
    )
    assert await watch.told() == []
    again = Survival(watch.bench.env, watch.bench.store)  # of a manager that has just started
    async with watch.bench.store.read() as reader:
        await again.load(reader)
    watch.survival = again
    assert await watch.told() == []
    await watch.put(watch.make.host("host-2", zone=ZONE, memory_bytes=9 * GIB))
    assert await watch.told() == [
        "RoomIsKept: the loss of a host would be survived again, in zone us-east-1a"
    ]


async def test_a_lost_host_uses_it_up(watch: Watch) -> None:
    await watch.begin(1)
    host = await watch.bench.get(type(watch.make.host()), "host-1")
    await watch.put(replace(host, state=HostState.down))
    assert len(await watch.told()) == 1


async def test_nothing_is_told_where_no_room_is_kept(watch: Watch) -> None:
    await watch.begin(0)
    for n in range(3):
        await watch.run(f"i-{n + 1}", f"host-{n % 2}")
    assert await watch.told() == []
    settings = await watch.bench.get(FleetSettings, FLEET)
    await watch.put(replace(settings, survive=1))
    assert len(await watch.told()) == 1
    settings = await watch.bench.get(FleetSettings, FLEET)
    assert settings.short == ("us-east-1a",)
    await watch.put(replace(settings, survive=0))
    assert await watch.told() == []
    assert (await watch.bench.get(FleetSettings, FLEET)).short == ()


async def test_nothing_is_read_while_nothing_changes(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    await watch.begin(1)
    await watch.told()
    watch.survival._stale = False
    monkeypatch.setattr(watch.bench.store, "read", None)
    await watch.survival.step()


async def test_what_could_not_be_looked_at_is_looked_at_again(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    await watch.begin(1)
    for n in range(3):
        await watch.run(f"i-{n + 1}", f"host-{n % 2}")

    async def fails(*_: Any, **__: Any) -> None:
        raise StoreError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(watch.bench.store, "transact", fails)
        with pytest.raises(StoreError):
            await watch.survival.step()
    assert len(await watch.told()) == 1


async def test_what_waits_has_its_place_in_thought(watch: Watch) -> None:
    await watch.begin(1)
    await watch.put(
        watch.make.instance("i-9", host=None), watch.make.attached("vol-9", instances=["i-9"], pool="san")
    )

    async def look(tx: Transaction) -> list[tuple[str, int]]:
        return [(zone, await survivable(each)) for zone, each in (await outlooks(tx, kept=True)).items()]

    assert await watch.bench.store.transact(look) == [("us-east-1a", 1)]
