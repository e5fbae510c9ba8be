"""A store with one host, and reports of it, for the reconcilers."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest

from gureum.control import instances, volumes
from gureum.control.balance import Situation
from gureum.control.balancer import Assessment
from gureum.control.fleet import Fleet
from gureum.control.loads import Use
from gureum.control.observed import Observed
from gureum.env import Env
from gureum.hostspec import (
    HostReport,
    MachineReport,
    MachineState,
    SnapshotReport,
    VolumeReport,
)
from gureum.resources import (
    Attachment,
    AttachmentState,
    Host,
    HostState,
    Instance,
    NetworkInterface,
    Record,
    Snapshot,
    Volume,
    VolumeState,
)
from gureum.store.base import Transaction
from gureum.store.sqlite import SqliteStore

R = TypeVar("R", bound=Record)

ACCOUNT = "123456789012"
EPOCH = 1_750_000_000.0
GIB = 1 << 30
NEWEST = 1 << 40
"""A revision newer than all."""


class Bench:
    """Records are put in, a report is taken in, a reconciler steps, records are looked at."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.time = EPOCH
        self.env = Env(clock=lambda: self.time, rng=random.Random(1))
        self.observed = Observed()
        self._said: dict[str, Any] = {"machines": {}, "volumes": {}, "snapshots": {}}

    async def put(self, *records: Record) -> None:
        async def work(tx: Transaction) -> None:
            for record in records:
                await tx.put(record)

        await self.store.transact(work)

    async def find(self, kind: type[R], id: str) -> R | None:
        async with self.store.read() as reader:
            return await reader.get(kind, id)

    async def get(self, kind: type[R], id: str) -> R:
        record = await self.find(kind, id)
        assert record is not None, id
        return record

    def machine(self, id: str = "i-1", state: MachineState = MachineState.running, **said: Any) -> None:
        values = {"generation": 1, "revision": NEWEST, **said}
        self._said["machines"][id] = MachineReport(id=id, state=state, **values)
        self._report()

    def volume(self, id: str = "vol-1", **said: Any) -> None:
        self._said["volumes"][id] = VolumeReport(id=id, **{"revision": NEWEST, "size_bytes": GIB, **said})
        self._report()

    def snapshot(self, id: str = "snap-1", **said: Any) -> None:
        self._said["snapshots"][id] = SnapshotReport(id=id, **{"revision": NEWEST, **said})
        self._report()

    def _report(self) -> None:
        said = {kind: tuple(things.values()) for kind, things in self._said.items()}
        self.observed.take(HostReport(cloud="test", host="host-0", boot_id="b", revision=1, **said))

    async def step_instance(self, id: str = "i-1") -> Instance | None:
        return await self._step(instances.reconcile, Instance, id)

    async def step_volume(self, id: str = "vol-1") -> Volume | None:
        return await self._step(volumes.reconcile, Volume, id)

    async def step_snapshot(self, id: str = "snap-1") -> Snapshot | None:
        return await self._step(volumes.reconcile_snapshot, Snapshot, id)

    async def _step(self, step: Callable[..., Awaitable[None]], kind: type[R], id: str) -> R | None:
        await self.store.transact(lambda tx: step(tx, self.env, self.observed, id))
        return await self.find(kind, id)


class Idle:
    """Hosts that say how busy they are: not at all, and what is on them as a test says. ``unknown``: machines
    of which that is not known.
    """

    def __init__(self) -> None:
        self.found = Assessment()
        self.uses: dict[str, Use] = {}
        self.besides: dict[str, Use] = {}
        self.silent: set[str] = set()
        self.unknown: set[str] = set()

    def situation(self, fleet: Fleet) -> Situation:
        ids = [each.host.id for each in fleet.candidates()]
        besides = {id: self.besides.get(id, Use()) for id in ids if id not in self.silent}
        return Situation(fleet, besides, lambda id: self.uses.get(id, Use()), {})

    def knows(self, machine: str) -> bool:
        return machine not in self.unknown


def instance(id: str = "i-1", **values: Any) -> Instance:
    defaults: dict[str, Any] = {
        "account": ACCOUNT,
        "reservation": "r-1",
        "type": "t3.micro",
        "image": "ami-1",
        "zone": "us-east-1a",
        "host": "host-0",
        "launched": datetime.fromtimestamp(EPOCH, UTC),
        "vpc": "vpc-1",
        "subnet": "subnet-1",
    }
    return Instance(id=id, **{**defaults, **values})


def volume(id: str = "vol-1", **values: Any) -> Volume:
    defaults: dict[str, Any] = {
        "account": ACCOUNT,
        "size_bytes": GIB,
        "zone": "us-east-1a",
        "host": "host-0",
        "created": datetime.fromtimestamp(EPOCH, UTC),
    }
    return Volume(id=id, **{**defaults, **values})


def attached(
    id: str = "vol-1",
    state: AttachmentState = AttachmentState.attached,
    delete: bool = False,
    instances: Sequence[str] = ("i-1",),
    **values: Any,
) -> Volume:
    attachments = tuple(
        Attachment(
            instance=instance,
            device="/dev/sdf",
            state=state,
            attached=datetime.fromtimestamp(EPOCH, UTC),
            delete_on_termination=delete,
        )
        for instance in instances
    )
    return volume(id, **{"state": VolumeState.in_use, "attachments": attachments, **values})


def snapshot(id: str = "snap-1", **values: Any) -> Snapshot:
    defaults: dict[str, Any] = {
        "account": ACCOUNT,
        "volume": "vol-1",
        "size_bytes": GIB,
        "host": "host-0",
        "started": datetime.fromtimestamp(EPOCH, UTC),
    }
    return Snapshot(id=id, **{**defaults, **values})


def interface(id: str = "eni-1", **values: Any) -> NetworkInterface:
    defaults: dict[str, Any] = {
        "account": ACCOUNT,
        "vpc": "vpc-1",
        "subnet": "subnet-1",
        "zone": "us-east-1a",
        "mac": "02:00:00:00:00:01",
        "private_ip": "172.31.0.4",
        "instance": "i-1",
    }
    return NetworkInterface(id=id, **{**defaults, **values})


def host(id: str = "host-0", **values: Any) -> Host:
    defaults: dict[str, Any] = {
        "state": HostState.up,
        "zone": "",
        "cpus": 4,
        "memory_bytes": 8 * GIB,
        "pool_bytes": 100 * GIB,
        "pool_free_bytes": 50 * GIB,
    }
    return Host(id=id, **{**defaults, **values})


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    store = SqliteStore.open(":memory:", threaded=False)
    yield Bench(store)
    await store.close()


@pytest.fixture
def make() -> Any:
    """The records' makers, by name."""

    class Make:
        pass

    for maker in (instance, volume, attached, snapshot, interface, host):
        setattr(Make, maker.__name__, staticmethod(maker))
    return Make
