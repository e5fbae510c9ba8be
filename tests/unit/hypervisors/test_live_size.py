"""vCPUs and memory that come and go, told to a QEMU that is played."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

import pytest

from gureum.hypervisors.qemu.live_size import LiveSize
from gureum.hypervisors.qemu.monitor import CommandError, Monitor
from gureum.migrationspec import Room
from gureum.sizespec import MachineSize

MIB = 1 << 20
ROOM = Room(threads=2, vcpus_max=4, memory_bytes=512 * MIB, memory_max_bytes=1536 * MIB)


class Qemu:
    """With cores of two threads. Its guest gives CPUs up when it is told to ``eject``."""

    id = "i-1"

    def __init__(self) -> None:
        self.present = [True, False, False, False]
        self.leaving: set[int] = set()
        self.plugged = self.requested = 0
        self.told: list[str] = []

    async def execute(self, command: str, arguments: Mapping[str, Any] | None = None) -> object:
        given = arguments or {}
        await asyncio.sleep(0)
        match command:
            case "query-hotpluggable-cpus":
                # As QEMU, the last one first.
                return [self._cpu(number) for number in reversed(range(4))]
            case "qom-get":
                return self.plugged if given["property"] == "size" else self.requested
            case "qom-set":
                self.requested = given["value"]
            case "device_add":
                self.present[2 * given["core-id"] + given["thread-id"]] = True
            case "device_del":
                number = int(given["id"].rpartition("/")[2])
                if number in self.leaving:
                    raise CommandError(
                        command, "GenericError", "Device 3 is already in the process of unplug"
                    )
                self.leaving.add(number)
        self.told.append(command)
        return {}

    def _cpu(self, number: int) -> dict[str, object]:
        place = {"core-id": number // 2, "thread-id": number % 2, "socket-id": 0, "node-id": 0}
        there = {"qom-path": f"/machine/{number}"} if self.present[number] else {}
        return {"type": "host-x86_64-cpu", "vcpus-count": 1, "props": place, **there}

    def eject(self) -> None:
        for number in self.leaving:
            self.present[number] = False
        self.leaving.clear()


class Rig:
    def __init__(self, keeps_cpus: bool) -> None:
        self.qemu = Qemu()
        self.news = self.grew = 0
        self.size = LiveSize(cast(Monitor, self.qemu), ROOM, keeps_cpus, self._changed, self._grown)

    def _changed(self) -> None:
        self.news += 1

    def _grown(self) -> None:
        self.grew += 1

    @property
    def status(self) -> MachineSize:
        assert self.size.status is not None
        return self.size.status


@pytest.fixture
async def rig() -> Rig:
    rig = Rig(keeps_cpus=False)
    await rig.size.look()
    return rig


async def test_it_grows_from_the_first_to_the_last(rig: Rig) -> None:
    assert rig.status == MachineSize(
        vcpus=1,
        memory_bytes=512 * MIB,
        vcpus_max=4,
        memory_min_bytes=512 * MIB,
        memory_max_bytes=1536 * MIB,
    )
    await rig.size.resize(3, 1025 * MIB)
    assert rig.qemu.present == [True, True, True, False]
    assert rig.qemu.requested == 512 * MIB
    assert (rig.status.vcpus, rig.status.memory_bytes) == (3, 512 * MIB)
    rig.qemu.plugged = 512 * MIB
    rig.size.look_soon()
    rig.size.look_soon()
    async with asyncio.timeout(10):
        while rig.status.memory_bytes != 1024 * MIB:  # noqa: ASYNC110
            await asyncio.sleep(0)
    told, news = len(rig.qemu.told), rig.news
    await rig.size.resize(3, 1024 * MIB)
    asked = rig.qemu.told[told:]
    assert not {"device_add", "qom-set"} & set(asked)
    assert (rig.news, rig.grew) == (news, 2)
    await rig.size.resize(9, 9000 * MIB)
    assert (rig.status.vcpus, rig.qemu.requested) == (4, 1024 * MIB)
    await rig.size.resize(4, 100 * MIB)
    assert rig.qemu.requested == 0


async def test_vcpus_go_from_the_last_on_one_by_one(rig: Rig) -> None:
    await rig.size.resize(3, 512 * MIB)
    for _ in range(2):
        await rig.size.resize(1, 512 * MIB)
        assert rig.qemu.leaving == {2}
        assert (rig.status.vcpus, rig.size.leaving) == (3, True)
    rig.qemu.eject()
    await rig.size.resize(1, 512 * MIB)
    assert rig.qemu.leaving == {1}
    rig.qemu.eject()
    await rig.size.look()
    assert (rig.status.vcpus, rig.size.leaving, rig.status.stuck) == (1, False, "")


async def test_of_an_emulated_machine_none_are_taken() -> None:
    rig = Rig(keeps_cpus=True)
    await rig.size.resize(2, 512 * MIB)
    await rig.size.resize(1, 512 * MIB)
    assert "device_del" not in rig.qemu.told
    assert (rig.status.vcpus, rig.status.vcpus_min, rig.size.leaving) == (2, 2, False)
    assert "cannot take a vCPU" in rig.status.stuck
    await rig.size.resize(2, 512 * MIB)
    assert rig.status.stuck == ""
