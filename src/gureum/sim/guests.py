"""What guests write, and whether it is still there: in volumes, in snapshots, in clones of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from gureum.errors import PoolFull
from gureum.hostspec import MachineState
from gureum.hypervisors.base import describe
from gureum.hypervisors.fake_machine import FakeDisk, FakeMachine
from gureum.san.fake import FakePoolDisk
from gureum.san.fake_parts import Blocks
from gureum.san.fake_shared import FakeSan
from gureum.sim.world import IMAGE_BLOCKS, SimHost, World

Storage = FakePoolDisk | FakeSan

BLOCKS = 12
"""Guests write to the first so many blocks only, so that they overwrite much."""


class Written:
    """All that was acknowledged to guests of one volume, in order, over what it was made from."""

    def __init__(self, base: Blocks) -> None:
        self.base = base
        self.writes: list[tuple[int, bytes]] = []

    def contents(self, count: int | None = None) -> Blocks:
        """After the first ``count`` writes, or all."""
        blocks = dict(self.base)
        blocks.update(self.writes[:count])
        return blocks


class Guests:
    """Guests that write, and a memory of what they wrote."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.volumes: dict[str, Written] = {}
        self.snapshots: dict[str, Blocks] = {}
        self.due: dict[str, int] = {}
        """By snapshot, how many writes it must contain: those acknowledged before it was asked for."""
        self.count = 0
        self.sources: dict[str, str] = {}
        """What volumes are made from, where the store says so: a copy in another pool does not know."""

    def asked_for_snapshot(self, snapshot: str, writes: int) -> None:
        self.due[snapshot] = writes

    def writes(self, volume: str) -> int:
        return len(self.volumes[volume].writes) if volume in self.volumes else 0

    def step(self) -> Iterator[str]:
        """Some guests read and write. Yields what is not as it should be."""
        rng = self.world.random
        for san in self.world.sans.values():
            yield from self._look(san)
        for host in self.world.hosts:
            yield from self._look(host.disk)
            for id in sorted(host.machines.machines):
                machine = host.machines.machines[id]
                if machine.state is not MachineState.running or host.still(machine):
                    continue
                for volume, disk in sorted(machine.disks.items()):
                    if rng.random() < 0.3:
                        yield from self._write(host, machine, volume, disk)

    def _pool(self, host: SimHost, disk: FakeDisk) -> Storage:
        return self.world.san_of(disk) if disk.shared else host.disk

    def _write(self, host: SimHost, machine: FakeMachine, volume: str, disk: FakeDisk) -> Iterator[str]:
        pool, path = self._pool(host, disk), disk.layers[0]
        written = self._written(pool, volume)
        if disk.target is not None and not host.reaches(disk.target):
            return  # it waits for where the disk moves, too
        if (found := _data(pool.contents(path))) != written.contents():
            yield f"{volume} contains {found} instead of {written.contents()}"
        if isinstance(pool, FakeSan) and host.surprised() and host.name in pool.image_of(path).evicted:
            return  # refused
        self.count += 1
        block, data = self.world.random.randrange(BLOCKS), f"{self.count}".encode()
        try:
            host.write(path, block, data)
        except PoolFull:
            return
        if disk.target is not None and disk.mirror is not None and not disk.mirror.error:
            try:
                host.write(describe(disk.target.source), block, data)
            except PoolFull as error:
                # Then it does not move, and that is told, as QEMU's driver tells it.
                disk.mirror = replace(disk.mirror, ready=False, error=str(error))
                host.machines.changed(machine)
        written.writes.append((block, data))

    def _written(self, pool: Storage, volume: str) -> Written:
        if volume not in self.volumes:
            self.volumes[volume] = Written(self._base(pool, volume))
        return self.volumes[volume]

    def _base(self, pool: Storage, volume: str) -> Blocks:
        source = self._source(pool, volume)
        if source.startswith("ami-"):
            return dict(IMAGE_BLOCKS)
        return dict(self.snapshots[source]) if source else {}

    def _source(self, pool: Storage, volume: str) -> str:
        return self.sources[volume] if volume in self.sources else pool.source_of(volume)

    def _look(self, pool: Storage) -> Iterator[str]:
        """Look at each new snapshot once: it is the volume as it was at one moment since it was asked for."""
        for id in sorted(pool.volumes() - self.volumes.keys()):
            source = self._source(pool, id)
            if source in ("", *self.snapshots) or source.startswith("ami-"):
                self._written(pool, id)
        for id in sorted(pool.snapshots() - self.snapshots.keys()):
            found = self.snapshots[id] = _data(pool.contents_of(id))
            written = self._written(pool, pool.volume_of(id))
            first = self.due.get(id, 0)
            moments = range(first, len(written.writes) + 1)
            if all(written.contents(count) != found for count in moments):
                yield f"{id} contains {found}, which {pool.volume_of(id)} never did since write {first}"
        for id in sorted(pool.volumes() - self.volumes.keys()):
            self._written(pool, id)

    def at_rest(self) -> Iterator[str]:
        """Everything that is there, once more."""
        for host in self.world.hosts:
            yield from self._at_rest(host.disk, [host])
        for san in self.world.sans.values():
            yield from self._at_rest(san, self.world.hosts)

    def _at_rest(self, pool: Storage, hosts: Sequence[SimHost]) -> Iterator[str]:
        yield from self._look(pool)
        active = {
            volume: disk.layers[0]
            for host in hosts
            for machine in host.machines.machines.values()
            for volume, disk in machine.disks.items()
        }
        for volume in sorted(pool.volumes()):
            expected = self._written(pool, volume).contents()
            found = _data(pool.contents(active[volume]) if volume in active else pool.contents_of(volume))
            if found != expected:
                yield f"{volume} contains {found} instead of {expected}"
        for snapshot in sorted(pool.snapshots()):
            if _data(pool.contents_of(snapshot)) != self.snapshots[snapshot]:
                yield f"{snapshot} changed"


def _data(blocks: Blocks) -> Blocks:
    """Without the zeros that copying brings."""
    stripped = {at: data.rstrip(b"\0") for at, data in blocks.items()}
    return {at: data for at, data in stripped.items() if data}
