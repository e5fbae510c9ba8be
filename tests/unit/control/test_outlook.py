"""What would come of lost hosts, over plain values, and against counting it out."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from itertools import combinations
from typing import Any

import pytest
from msgspec.structs import replace

from gureum.control import outlook, recovery, survival
from gureum.control.filters import Move, Scene, Wish
from gureum.control.fleet import EVERY_ZONE, taken
from gureum.control.outlook import Outlook, domain, domains
from gureum.control.restarts import Restart, Restarts, order
from gureum.control.survival import outlooks
from gureum.resources import (
    Host,
    HostState,
    Instance,
    InstanceMigration,
    InstanceState,
    PlacementGroup,
    Record,
    Recovery,
    RecoveryPolicy,
    SpreadLevel,
    Strategy,
)
from gureum.store.base import Transaction

GIB = 1 << 30
ZONE = "us-east-1a"
RUNS = InstanceState.running


def restarts_of(*records: Record) -> Restarts:
    found = Restarts()
    for record in records:
        if (kept := found.digest(record)) is not None:
            found.add(record.kind, record.id, kept)
    return found


def looked(*records: Record, zone: str = ZONE) -> Outlook:
    found = restarts_of(*records)
    return Outlook(Scene(found), found, domain(found, zone))


def survivable(found: Outlook) -> int:
    return asyncio.run(survival.survivable(found))


def shared_disk(make: Any, id: str, pool: str = "san") -> Record:
    disk: Record = make.attached(f"vol-{id}", instances=[id], pool=pool)
    return disk


def running(make: Any, *machines: tuple[str, str, str], **values: Any) -> list[Record]:
    """Of (id, type, host), with a disk in a shared pool each."""
    found: list[Record] = []
    for id, type, host in machines:
        found += [make.instance(id, type=type, host=host, state=RUNS, **values), shared_disk(make, id)]
    return found


def hosts(make: Any, *gib: float, **values: Any) -> list[Record]:
    """With so much to give away each."""
    return [
        make.host(f"host-{n}", memory_bytes=int((1 + size) * GIB), **{"cpus": 64, **values})
        for n, size in enumerate(gib)
    ]


def test_holes_are_no_room(make: Any) -> None:
    """A guest of 8 GiB fits in no eight holes of 1 GiB, whatever they sum up to."""
    small = [(f"i-{n}", "t3.2xlarge", f"host-{n}") for n in range(1, 9)]
    large = ("i-0", "m5.large", "host-0")
    found = looked(*hosts(make, 9, *[33.5] * 8), *running(make, large, *small))
    short = found.short(1)
    assert short is not None
    assert short.lost == ("host-0",)
    assert str(short) == "if host host-0 was lost, i-0 (m5.large) would find no room"
    assert survivable(found) == 0


def test_none_is_survived_by_one_host_that_has_something(make: Any) -> None:
    alone = hosts(make, 7)
    assert survivable(looked(*alone)) == 1
    found = looked(*alone, *running(make, ("i-0", "t3.micro", "host-0")))
    assert survivable(found) == 0
    assert [machine.id for machine in found.homeless(["host-0"])] == ["i-0"]


@pytest.mark.parametrize(
    "values",
    [
        {"recovery": Recovery(policy=RecoveryPolicy.stop)},
        {"recovery": Recovery(policy=RecoveryPolicy.none)},
        {"state": InstanceState.stopping},
    ],
)
def test_what_is_not_restarted_needs_no_room(make: Any, values: Any) -> None:
    two = hosts(make, 1.2, 1.2)
    full = running(make, ("i-0", "t3.micro", "host-0"), ("i-1", "t3.micro", "host-1"))
    assert looked(*two, *full).short(1) is not None
    instance = make.instance("i-0", **{"state": RUNS, **values})
    assert looked(*two, *full[1:], instance).homeless(["host-0"]) == ()


def test_local_disks_keep_instances_on_their_host(make: Any) -> None:
    two = hosts(make, 1.2, 1.2)
    full = running(make, ("i-0", "t3.micro", "host-0"), ("i-1", "t3.micro", "host-1"))
    local = make.attached("vol-local", instances=["i-0", "i-1"])
    assert looked(*two, *full, local).short(1) is None
    without = [each for each in full if each.kind == "instance"]
    assert looked(*two, *without).short(1) is None


def test_a_lost_host_s_instances_need_their_room_still(make: Any) -> None:
    """Also before they are started elsewhere: the others' room is theirs."""
    two, third = hosts(make, 3, 3, 3)[:2], make.host("host-2", memory_bytes=4 * GIB, state=HostState.down)
    at = [(f"i-{n}", "t3.micro", f"host-{n % 3}") for n in range(3)]
    found = looked(*two, third, *running(make, *at))
    assert found.short(0) is None
    assert found.short(1) is not None
    assert survivable(found) == 0
    drained = replace(third, state=HostState.up, draining=True)
    assert looked(*two, drained, *running(make, *at)).short(1) is not None


def test_what_waits_for_a_host_is_short_of_room_already(make: Any) -> None:
    waits = make.instance("i-0", host=None, recovers=1.0)
    found = looked(*hosts(make, 0.5), waits, shared_disk(make, "i-0"))
    short = found.short(0)
    assert short is not None
    assert "waits for one already" in str(short)
    assert survivable(found) == -1


def test_what_was_accepted_and_has_no_host_yet_has_one_in_thought(make: Any) -> None:
    waits = make.instance("i-0", host=None, state=InstanceState.pending)
    assert survivable(looked(*hosts(make, 1.2, 1.2), waits, shared_disk(make, "i-0"))) == 1
    there = running(make, ("i-1", "t3.micro", "host-0"))
    assert survivable(looked(*hosts(make, 1.2, 1.2), waits, shared_disk(make, "i-0"), *there)) == 0


def test_priority_decides_who_finds_room(make: Any) -> None:
    two = hosts(make, 5, 2.5)
    low, high = (
        running(make, (f"i-{n}", "t3.small", "host-0"), recovery=Recovery(priority=priority))
        for n, priority in enumerate((10, 90))
    )
    found = looked(*two, *low, *high)
    assert next(iter(found.moves(["host-0"])))[1] == "host-1"
    assert [machine.id for machine in found.homeless(["host-0"])] == ["i-0"]


def test_zones_are_apart_unless_hosts_stand_for_all(make: Any) -> None:
    zoned = [make.host(f"host-{z}", zone=f"us-east-1{z}", memory_bytes=9 * GIB) for z in "ab"]
    assert domains(restarts_of(*zoned)) == [ZONE, "us-east-1b"]
    assert domain(restarts_of(*zoned), ZONE) == ZONE
    common = make.host("host-c", zone=EVERY_ZONE)
    assert domains(restarts_of(*zoned, common)) == [EVERY_ZONE]
    at = running(make, ("i-0", "t3.micro", "host-a"))
    assert looked(*zoned, *at).short(1) is not None
    assert looked(*zoned, common, *at).short(1) is None
    elsewhere = running(make, *[(f"i-{n}", "t3.small", "host-b") for n in range(1, 3)], zone="us-east-1b")
    assert looked(*zoned, common, *elsewhere).short(1) is None  # on the one that stands for all
    assert looked(*zoned, *elsewhere, zone="us-east-1b").short(1) is not None


def test_a_fleet_of_loads_gives_back_all_it_took(make: Any) -> None:
    """Whatever comes and goes, volumes before their instances and after them."""
    rng = random.Random(7)
    records: dict[str, Record] = {}
    found = Restarts()
    for _ in range(600):
        number = rng.randrange(8)
        new: Record
        if rng.random() < 0.5:
            new = make.instance(
                f"i-{number}",
                host=rng.choice([None, "host-0", "host-1"]),
                type=rng.choice(["t3.micro", "m5.large"]),
                group=rng.choice(["", "pg-1"]),
                state=rng.choice([RUNS, InstanceState.pending, InstanceState.stopped]),
                recovery=Recovery(policy=rng.choice(list(RecoveryPolicy))),
            )
        else:
            having = [f"i-{number}"] + [f"i-{rng.randrange(8)}"] * (rng.random() < 0.2)
            new = make.attached(f"vol-{number}", instances=having, pool=rng.choice(["san", "san", "local"]))
        if (old := records.pop(new.id, None)) and (kept := found.digest(old)) is not None:
            found.remove(old.kind, old.id, kept)
        if rng.random() < 0.8:
            records[new.id] = new
            if (kept := found.digest(new)) is not None:
                found.add(new.kind, new.id, kept)
        fresh = restarts_of(*records.values())
        fields = ("machines", "odd", "cpus", "memory_bytes", "cpus_max", "memory_max")
        for one, other in ((found, fresh), (fresh, found)):
            for host, load in one.loads.items():
                assert [getattr(load, field) for field in fields] == [
                    getattr(other.loads[host], field) for field in fields
                ]


# Against counting it out

TYPES = ["t3.nano", "t3.micro", "t3.small", "t3.medium", "m5.large", "c5.xlarge"]


class Model:
    """The same told simply: every set of hosts, every host for each machine, nothing remembered."""

    def __init__(self, records: Iterable[Record]) -> None:
        self.hosts = [each for each in records if isinstance(each, Host)]
        self.instances = [each for each in records if isinstance(each, Instance)]
        self.groups = {each.id: each for each in records if isinstance(each, PlacementGroup)}
        self.local = {
            id for each in records if each.kind == "volume" and each.pool == "local" for id in each.instances
        }

    def homeless(self, lost: Iterable[str]) -> list[str]:
        usable = {each.id for each in self.hosts if each.schedulable} - set(lost)
        where = {each.id: each.host for each in self.instances}
        leaves = [
            each
            for each in self.instances
            if each.recovery.policy is RecoveryPolicy.restart
            and each.id not in self.local
            and each.host not in usable
        ]
        where |= {each.id: None for each in leaves}
        left = []
        for each in sorted(leaves, key=order):
            fits = [host for host in self.hosts if host.id in usable and self.fits(each, host, where)]
            if fits:
                where[each.id] = max(fits, key=lambda host: (self.free(host, where)[0], host.id)).id
            else:
                left.append(each.id)
        return left

    def free(self, host: Host, where: dict[str, str | None]) -> tuple[int, int]:
        on = [taken(each) for each in self.instances if where[each.id] == host.id]
        memory = host.memory_bytes - GIB - sum(each.memory_bytes for each in on)
        return memory, host.cpus * 16 - sum(each.size.vcpus for each in on)

    def fits(self, instance: Instance, host: Host, where: dict[str, str | None]) -> bool:
        machine, (memory, cpus) = taken(instance), self.free(host, where)
        others = [each for each in self.instances if each.id != instance.id]
        here = [each for each in others if where[each.id] == host.id]
        if host.zone not in ("", machine.zone) or any(
            host.labels.get(key) != value for key, value in machine.requires
        ):
            return False
        if any(
            "dedicated" in (each.tenancy, machine.tenancy) and each.account != machine.account
            for each in here
        ):
            return False
        if (group := self.groups.get(instance.group)) is not None:
            racks = {each.id: each.labels.get("rack", each.id) for each in self.hosts}
            apart = [where[each.id] for each in others if each.group == group.id and where[each.id]]
            if group.strategy is Strategy.partitions and not self.in_partition(instance, group, host, where):
                return False
            if group.spread is SpreadLevel.host and host.id in apart:
                return False
            rack_level = group.strategy is Strategy.spread and group.spread is SpreadLevel.rack
            if rack_level and racks[host.id] in [racks[str(each)] for each in apart]:
                return False
        return memory >= machine.memory_bytes and cpus >= machine.size.vcpus

    def in_partition(
        self, instance: Instance, group: PlacementGroup, host: Host, where: dict[str, str | None]
    ) -> bool:
        racks = {each.id: each.labels.get("rack", each.id) for each in self.hosts}
        owners: dict[str, set[int]] = {rack: set() for rack in racks.values()}
        for each in self.instances:
            if each.group == group.id and each.id != instance.id and where[each.id]:
                owners[racks[str(where[each.id])]].add(each.partition)
        here, own = owners[racks[host.id]], instance.partition
        served = {racks[each.id] for each in self.hosts if each.zone in ("", instance.zone)}
        share = max(1, len(served) // group.partitions)
        return here <= {own} and (own in here or sum(own in each for each in owners.values()) < share)


def some_cloud(make: Any, rng: random.Random) -> list[Record]:
    """Nearly full, so that it is close."""
    odd = rng.random() < 0.6
    records: list[Record] = [
        PlacementGroup(id="pg-h", account="1", name="h", strategy=Strategy.spread, spread=SpreadLevel.host),
        PlacementGroup(id="pg-r", account="1", name="r", strategy=Strategy.spread),
        PlacementGroup(id="pg-p", account="1", name="p", strategy=Strategy.partitions, partitions=2),
    ]
    count = rng.randrange(3, 8)
    zones = rng.choice([[ZONE], [ZONE], [""], ["", ZONE, "us-east-1b"]])
    for n in range(count):
        state = rng.choices(
            [{}, {"state": HostState.down}, {"draining": True}, {"uplink_down": True}, {"unfit": "is"}],
            [40, 1, 1, 1, 1],
        )
        labels = {"rack": f"r{rng.randrange(4)}"} | ({"disk": "ssd"} if rng.random() < 0.7 else {})
        size = rng.choice([9, 13, 17, 33])
        cpus = rng.choice([1, 4, 64])
        here = {"zone": rng.choice(zones) if n else zones[0], "labels": labels, **state[0]}
        records.append(make.host(f"host-{n}", memory_bytes=size * GIB, cpus=cpus, **here))
    model = Model(records)
    fill = rng.uniform(0.05, 0.6)
    for n in range(40):
        host = rng.choice(model.hosts)
        new = make.instance(
            f"i-{n:02}",
            host=host.id,
            zone=host.zone or rng.choice([ZONE, "us-east-1b"] if len(zones) > 1 else [ZONE]),
            state=RUNS,
            account=rng.choice(["a", "b"]) if odd else "a",
            type=rng.choice(TYPES),
            group=rng.choice(["", "", "", "pg-h", "pg-r", "pg-p"]) if odd else "",
            partition=rng.randrange(1, 3),
            tenancy="dedicated" if odd and rng.random() < 0.05 else "default",
            tags={"gureum:host:disk": "ssd"} if odd and rng.random() < 0.2 else {},
            recovery=Recovery(
                policy=rng.choice([RecoveryPolicy.restart] * 8 + list(RecoveryPolicy)),
                priority=rng.choice([10, 50, 50, 90]),
            ),
        )
        where = {each.id: each.host for each in model.instances}
        memory, _ = model.free(host, where)
        if model.fits(new, host, where) and memory > (host.memory_bytes - GIB) * (1 - fill):
            model.instances.append(new)
            records += [new, shared_disk(make, new.id, rng.choice(["san"] * 9 + ["local"]))]
            model.local = Model(records).local
    return records


@pytest.mark.parametrize("seed", range(60))
def test_it_is_what_counting_it_out_finds(make: Any, seed: int) -> None:
    rng = random.Random(seed)
    records = some_cloud(make, rng)
    model, found = Model(records), looked(*records)
    usable = sorted(each.id for each in model.hosts if each.schedulable)
    for losses in range(min(3, len(usable)) + 1):
        sets = list(combinations(usable, losses))
        expected = {lost: model.homeless(lost) for lost in sets}
        for lost in sets:
            assert [each.id for each in found.homeless(lost)] == expected[lost]
        short = found.short(losses)
        assert (short is None) == (not any(expected.values()))
        if short is not None:
            assert [each.id for each in short.homeless] == expected[short.lost]


@pytest.mark.parametrize("seed", range(20))
async def test_it_is_what_the_recovery_does(bench: Any, make: Any, seed: int) -> None:
    records = some_cloud(make, random.Random(seed))
    await bench.put(*records)
    async with bench.store.read() as reader:
        [found] = (await outlooks(reader)).values()
        lost = max(
            (each.host for each in found.usable), key=lambda host: (len(found.homeless([host.id])), host.id)
        )
        expected = list(found.moves([lost.id]))
    gone = {each.id for each in records if isinstance(each, Host) and not each.schedulable} | {lost.id}

    async def work(tx: Transaction) -> None:
        for id in gone:
            host = await tx.get(Host, id)
            assert host is not None
            for state in (HostState.down, HostState.fencing, HostState.fenced):
                host = await tx.put(replace(host, state=state))
            for instance in await tx.find(Instance, host=id, state=str(RUNS)):
                if not await recovery.waits(tx, instance):
                    await recovery.leave(tx, bench.env, instance, host)
        waiting = [each for each in await tx.find(Instance, state="pending") if each.host is None]
        for instance in sorted(waiting, key=order):
            await recovery.place(tx, bench.env, instance.id)

    await bench.store.transact(work)
    for machine, host in expected:
        assert (await bench.get(Instance, machine.id)).host == host


@pytest.mark.parametrize("seed", range(40))
def test_moves_in_thought_are_moves(make: Any, seed: int) -> None:
    """Also where the room at the other end is reserved by the migration that is under way."""
    rng = random.Random(seed)
    records = some_cloud(make, rng)
    at = {each.id: each for each in records}
    moved = rng.sample([each for each in records if isinstance(each, Instance)], 3)
    targets = [each for each in records if isinstance(each, Host) and each.schedulable]
    ways: list[Move] = []
    under_way: list[Record] = []
    for instance in moved:
        to = rng.choice([each.id for each in targets if each.id != instance.host])
        type = rng.choice([instance.type, "t3.medium"])
        at[instance.id] = replace(instance, host=to, type=type)
        migration = migration_of(instance, to, type) if rng.random() < 0.5 else None
        under_way += [migration] if migration is not None else []
        machine = taken(replace(instance, type=type))._replace(host=to)
        ways.append(Move(str(instance.host), machine, migration.id if migration is not None else ""))
    before = restarts_of(*records, *under_way)
    scene = Scene(before)
    for way in ways:
        scene.move(way)
    zone = domain(before, ZONE)
    found, expected = Outlook(scene, before, zone), looked(*at.values())
    for losses in range(3):
        assert found.short(losses) == expected.short(losses)
    for each in targets:
        assert found.homeless([each.id]) == expected.homeless([each.id])


def migration_of(instance: Instance, to: str, type: str) -> InstanceMigration:
    return InstanceMigration(
        id=f"mig-{instance.id}",
        account=instance.account,
        instance=instance.id,
        type=type,
        zone=instance.zone,
        source=str(instance.host),
        destination=to,
        generation=2,
        source_generation=1,
        started=instance.launched,
    )


def test_random_clouds_are_close(make: Any) -> None:
    """Of what the test above looks at, some hold and some do not, by the sum and by trying."""
    answers, tried = [], 0
    for seed in range(60):
        found = looked(*some_cloud(make, random.Random(seed)))
        answers.append(found.short(1) is None)
        tried += answers[-1] and next(iter(found._doubtful(1)), None) is not None
    assert 10 < sum(answers) < 50
    assert tried > 3


def test_of_many_hosts_the_hardest_to_lose_are_lost_with_each(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three hosts whose loss is hardest: two of them are the set that is not survived."""
    monkeypatch.setattr(outlook, "SETS_MAX", 3)
    machines = [(f"i-{n}{m}", "t3.2xlarge", f"host-{n}") for n in range(2) for m in range(2)]
    found = looked(*hosts(make, 66, 66, 33, 33, 33), *running(make, *machines))
    assert found.short(1) is None
    short = found.short(2)
    assert short is not None
    assert short.lost == ("host-0", "host-1")


def test_what_is_placed_in_thought_counts(make: Any) -> None:
    two = hosts(make, 3, 3)
    found = restarts_of(*two, *running(make, ("i-0", "t3.micro", "host-0")))
    scene, machine = Scene(found), taken(make.instance("new-0", host=None, type="t3.small"))
    scene.place(Wish(machine))
    assert Outlook(scene, found, ZONE).short(1) is not None  # it takes host-1's room
    new = {"new-0": Restart(machine, (-50, 0.0, "new-0"))}
    short = Outlook(Scene(found), found, ZONE, new).short(1)
    assert short is None
