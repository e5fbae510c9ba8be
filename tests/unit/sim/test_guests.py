"""What guests' writes do to disks that move while they write."""

from __future__ import annotations

import asyncio
import random

from gureum.env import Env
from gureum.hypervisors.base import Disk, MachineConfig
from gureum.hypervisors.fake import MIRROR_SECONDS, FakeHypervisor
from gureum.san.fake import FakePool
from gureum.san.fake_shared import FakeSharedPool
from gureum.sim.guests import Guests
from gureum.sim.loop import run
from gureum.sim.world import World

MACHINE, VOLUME = "i-0123456789abcdef0", "vol-0123456789abcdef0"


def test_a_write_that_does_not_reach_where_a_disk_moves_is_told_of() -> None:
    """As QEMU tells of it: nobody looks at a move of which nothing is said."""
    told: list[str] = []

    async def main() -> None:
        world = World(1, 2, shared=True)
        assert world.san is not None
        env, host = Env(rng=random.Random(1)), world.hosts[0]
        local, shared = FakePool(env, host.disk), FakeSharedPool(env, world.san, host.name)
        await local.create_volume(VOLUME, 1 << 30)
        await shared.create_volume(VOLUME, 1 << 30, partial=True)
        hypervisor = FakeHypervisor(env, host.machines)
        disk = Disk(volume=VOLUME, index=0, source=await local.open_volume(VOLUME))
        config = MachineConfig(id=MACHINE, generation=1, vcpus=1, memory_bytes=1 << 28, disks=(disk,))
        await hypervisor.start(config)
        await hypervisor.mirror_disk(MACHINE, VOLUME, await shared.open_volume(VOLUME))
        await asyncio.sleep(MIRROR_SECONDS[1])
        assert hypervisor.machines()[MACHINE].mirrors[VOLUME].ready
        hypervisor.subscribe(told.append)
        world.san.size_bytes = 0
        guests = Guests(world)
        for _ in range(100):
            assert not list(guests.step())
        assert hypervisor.machines()[MACHINE].mirrors[VOLUME].error == "the fake SAN is full"
        assert told == [MACHINE]
        await host.machines.close()
        await world.store.close()

    run(main())
