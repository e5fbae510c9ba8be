"""Filters and weights over plain values: no store."""

from __future__ import annotations

import random
from typing import Any

import pytest
from msgspec.structs import replace

from gureum.control.filters import SPREAD_PER_ZONE_MAX, Scene, Shelf, Wish, reasons, verdicts
from gureum.control.fleet import Fleet, Taken, taken
from gureum.resources import (
    FleetSettings,
    HostState,
    Instance,
    InstanceState,
    PlacementGroup,
    Record,
    SpreadLevel,
    Strategy,
)

GIB = 1 << 30
ZONE = "us-east-1a"


def fleet_of(*records: Record) -> Fleet:
    fleet = Fleet()
    for record in records:
        if (kept := fleet.digest(record)) is not None:
            fleet.add(record.kind, record.id, kept)
    return fleet


def wish(make: Any, **values: Any) -> Wish:
    return Wish(taken(make.instance(**{"id": "i-new", "host": None, **values})))


def group(strategy: Strategy, **values: Any) -> PlacementGroup:
    return PlacementGroup(id="pg-1", account="1", name="g", strategy=strategy, **values)


def why(scene: Scene, asked: Wish, host: str) -> list[tuple[str, str]]:
    [verdict] = [each for each in verdicts(scene, asked) if each.host == host]
    return list(verdict.reasons)


@pytest.mark.parametrize(
    ("host", "asked", "reason"),
    [
        ({"zone": "us-east-1b"}, {}, ("zone", "is in zone us-east-1b")),
        ({"state": HostState.down}, {}, ("state", "is down")),
        ({"draining": True}, {}, ("draining", "is being drained")),
        ({"uplink_down": True}, {}, ("uplink", "has no uplink now: nobody would reach it there")),
        (
            {"unfit": "does not reach the storage cluster"},
            {},
            ("fit", "does not reach the storage cluster"),
        ),
        ({"cpus": 0}, {}, ("vcpus", "has 0 vCPUs left, and 2 are needed")),
        (
            {"memory_bytes": 2 * GIB},
            {},
            ("memory", "has 1 GiB of memory left, and 1.125 GiB are needed"),
        ),
        (
            {"labels": {"disk": "hdd"}},
            {"tags": {"gureum:host:disk": "ssd"}},
            ("labels", "has no label disk=ssd"),
        ),
    ],
)
def test_each_filter_says_why(make: Any, host: Any, asked: Any, reason: tuple[str, str]) -> None:
    good = make.host("host-1", labels={"disk": "ssd"})
    scene = Scene(fleet_of(make.host("host-0", **host), good))
    assert why(scene, wish(make, **asked), "host-0") == [reason]
    assert why(scene, wish(make, **asked), "host-1") == []
    best = scene.best(wish(make, **asked))
    assert best is not None
    assert best.host is good


LEVELS = ("x86-64-v1", "x86-64-v2", "x86-64-v2-aes", "x86-64-v3")


def test_the_baseline_is_what_all_hosts_of_the_zone_offer(make: Any) -> None:
    settings = FleetSettings(id="fleet", cpu_model="baseline")
    other = make.host("host-9", zone="us-east-1b", cpu_models=LEVELS)
    high = make.host("host-0", zone=ZONE, cpu_models=LEVELS)
    fleet = fleet_of(settings, other, high)
    assert fleet.cpu_model(ZONE) == "x86-64-v3"
    low = make.host("host-1", zone=ZONE, cpu_models=LEVELS[:2])
    silent = make.host("host-2", zone=ZONE, memory_bytes=64 * GIB)
    for host in (low, silent):
        fleet.add(host.kind, host.id, host)
    assert (fleet.cpu_model(ZONE), fleet.cpu_model("us-east-1b")) == ("x86-64-v2", "x86-64-v3")
    scene = Scene(fleet)
    assert why(scene, wish(make), "host-2") == [("cpu", "does not offer the CPU model x86-64-v2")]
    shelf = Shelf(Scene(fleet), taken(make.instance(id="i-new", host=None)))
    assert {shelf.place(taken(make.instance(id=f"i-{n}", host=None))).host.id for n in range(4)} <= {  # type: ignore[union-attr]
        "host-0",
        "host-1",
    }
    fleet.remove(low.kind, low.id, low)
    assert fleet.cpu_model(ZONE) == "x86-64-v3"
    nothing = make.host("host-1", zone=ZONE, cpu_models=("EPYC",))
    fleet.add(nothing.kind, nothing.id, nothing)
    [(name, reason)] = why(Scene(fleet), wish(make), "host-0")
    assert (name, reason) == ("cpu", "has no CPU model in common with the other hosts of the zone")


def test_a_model_is_for_hosts_that_offer_it(make: Any) -> None:
    fleet = fleet_of(
        FleetSettings(id="fleet", cpu_model="EPYC"), make.host(), make.host("host-1", cpu_models=("EPYC",))
    )
    assert fleet.cpu_model(ZONE) == "EPYC"
    best = Scene(fleet).best(wish(make))
    assert best is not None
    assert best.host.id == "host-1"
    assert fleet_of(make.host()).cpu_model(ZONE) == ""


def test_what_is_asked_of_one_placement(make: Any) -> None:
    hosts = [make.host(f"host-{number}", accelerator="kvm" if number else "tcg") for number in range(4)]
    scene = Scene(fleet_of(*hosts))
    asked = wish(make)._replace(
        bound={"host-1", "host-0"}, excluding={"host-1": "has it already"}, like=hosts[1]
    )
    assert why(scene, asked, "host-0") == [("hardware", "runs guests by tcg, and host-1 by kvm")]
    assert why(scene, asked, "host-1") == [("excluded", "has it already")]
    assert why(scene, asked, "host-2")[0][0] == "storage"
    assert scene.best(asked) is None


def test_the_emptiest_is_best_and_names_decide_between_equals(make: Any) -> None:
    scene = Scene(
        fleet_of(make.host("host-0"), make.host("host-1"), make.host("host-2", memory_bytes=7 * GIB))
    )
    assert [each.host for each in verdicts(scene, wish(make))] == ["host-1", "host-0", "host-2"]


def test_overcommit_is_the_fleet_s_or_the_host_s_own(make: Any) -> None:
    settings = FleetSettings(id="fleet", cpu_overcommit=1.0, memory_overcommit=2.0)
    fleet = fleet_of(make.host("host-0", cpus=4), make.host("host-1", cpus=4, cpu_overcommit=3.0), settings)
    first, second = (fleet.candidate(f"host-{number}") for number in range(2))
    assert first is not None and second is not None  # noqa: PT018
    assert (first.cpus, first.memory_bytes) == (4, 14 * GIB)
    assert second.cpus == 12
    fleet.remove(settings.kind, settings.id, settings)
    again = fleet.candidate("host-0")
    assert again is not None
    assert (again.cpus, again.memory_bytes) == (64, 7 * GIB)


def test_a_fleet_gives_back_all_it_took(make: Any) -> None:
    """Whatever comes and goes, in whatever order."""
    rng = random.Random(3)
    records: dict[str, Record] = {}
    fleet = Fleet()
    for _ in range(400):
        number = rng.randrange(20)
        new: Record
        if number < 4:
            new = make.host(f"host-{number}", cpus=rng.randrange(9), zone=rng.choice(["", "a"]))
        else:
            new = make.instance(
                f"i-{number}",
                host=rng.choice([None, "host-0", "host-1", "host-9"]),
                group=rng.choice(["", "pg-1"]),
                tenancy=rng.choice(["default", "dedicated"]),
                state=rng.choice([InstanceState.pending, InstanceState.running, InstanceState.stopped]),
            )
        if (old := records.pop(new.id, None)) and (kept := fleet.digest(old)) is not None:
            fleet.remove(old.kind, old.id, kept)
        if rng.random() < 0.8:
            records[new.id] = new
            if (kept := fleet.digest(new)) is not None:
                fleet.add(new.kind, new.id, kept)
        fresh = fleet_of(*records.values())
        for each in fresh.candidates():
            other = fleet.candidate(each.host.id)
            assert other is not None
            fields = ("cpus", "memory_bytes", "instances", "owners", "dedicated", "rack", "host")
            assert [getattr(each, field) for field in fields] == [getattr(other, field) for field in fields]
        assert len(list(fresh.candidates())) == len(list(fleet.candidates()))
        assert fresh.unplaced == fleet.unplaced
        assert fresh.members("pg-1") == fleet.members("pg-1")
        assert fresh.dedicated == fleet.dedicated


def test_spread_over_racks(make: Any) -> None:
    racks = {0: "r1", 1: "r1", 2: "r2"}
    hosts = [make.host(f"host-{number}", labels={"rack": rack}) for number, rack in racks.items()]
    there = make.instance("i-1", host="host-0", group="pg-1")
    scene = Scene(fleet_of(group(Strategy.spread), *hosts, there))
    asked = wish(make, group="pg-1")
    assert "another instance" in why(scene, asked, "host-0")[0][1]
    assert why(scene, asked, "host-1") == [
        ("group", "is in rack r1, as another instance of the spread group g")
    ]
    assert scene.place(asked) is not None
    assert scene.best(wish(make, id="i-next", group="pg-1")) is None
    by_host = Scene(fleet_of(group(Strategy.spread, spread=SpreadLevel.host), *hosts, there))
    assert why(by_host, asked, "host-1") == []


def test_a_group_that_is_spread_over_racks_has_a_bound(make: Any) -> None:
    hosts = [make.host(f"host-{number}") for number in range(SPREAD_PER_ZONE_MAX + 1)]
    scene = Scene(fleet_of(group(Strategy.spread), *hosts))
    placed = [scene.place(wish(make, id=f"i-{number}", group="pg-1")) for number in range(len(hosts))]
    assert [each is None for each in placed] == [False] * SPREAD_PER_ZONE_MAX + [True]
    assert "as many as it may" in why(scene, wish(make, group="pg-1"), "host-0")[0][1]


def test_partitions_share_no_rack_and_none_takes_all_racks(make: Any) -> None:
    hosts = [make.host(f"host-{number}") for number in range(4)]
    scene = Scene(fleet_of(group(Strategy.partitions, partitions=2), *hosts))
    where: dict[int, set[str]] = {1: set(), 2: set()}
    for number in range(8):
        partition = 1 if number < 4 else 2
        chosen = scene.place(wish(make, id=f"i-{number}", group="pg-1", partition=partition))
        assert chosen is not None
        where[partition].add(chosen.host.id)
    assert {len(each) for each in where.values()} == {2}
    assert where[1].isdisjoint(where[2])
    assert "partition 2" in why(scene, wish(make, group="pg-1", partition=1), min(where[2]))[0][1]


def test_a_cluster_stays_in_its_rack_and_zone(make: Any) -> None:
    hosts = [make.host(f"host-{number}", memory_bytes=(number + 4) * GIB) for number in range(3)]
    near = make.host("host-7", memory_bytes=4 * GIB, labels={"rack": "host-0"})
    there = make.instance("i-1", host="host-0", group="pg-1", zone=ZONE)
    scene = Scene(fleet_of(group(Strategy.cluster), *hosts, near, there))
    order = [each.host for each in verdicts(scene, wish(make, group="pg-1", zone=ZONE))]
    assert order == ["host-0", "host-7", "host-2", "host-1"]
    [elsewhere, *_] = why(scene, wish(make, group="pg-1", zone="us-east-1b"), "host-2")
    assert elsewhere == ("group", f"is out, since the instances of the cluster group g are in zone {ZONE}")


def test_dedicated_tenancy_is_for_one_account(make: Any) -> None:
    own = make.instance("i-1", host="host-0", account="a", tenancy="dedicated")
    other = make.instance("i-2", host="host-1", account="b")
    scene = Scene(fleet_of(make.host("host-0"), make.host("host-1"), make.host("host-2"), own, other))

    def out(**values: Any) -> list[str]:
        return sorted(each.host for each in verdicts(scene, wish(make, **values)) if not each.fits)

    assert out(account="b") == ["host-0"]
    assert out(account="a") == []
    assert out(account="a", tenancy="dedicated") == ["host-1"]
    assert out(account="b", tenancy="dedicated") == ["host-0"]


def test_what_is_there_already_is_not_counted_twice(make: Any) -> None:
    small = make.host("host-0", memory_bytes=int(2.2 * GIB))
    there = make.instance("i-1", host="host-0", state=InstanceState.running)
    scene = Scene(fleet_of(small, there))
    assert why(scene, Wish(taken(there)), "host-0") == []
    assert why(scene, Wish(taken(replace(there, id="i-2"))), "host-0") != []


def test_reasons_of_many_hosts_are_counted(make: Any) -> None:
    hosts = [make.host(f"host-{number}", draining=number < 4) for number in range(6)]
    scene = Scene(fleet_of(*hosts))
    found = verdicts(scene, wish(make, tags={"gureum:host:gpu": "yes"}))
    assert reasons(found) == ("of 6 hosts 4 by draining, 2 by labels; for example host-0 is being drained")
    assert reasons(found[:1]) == "host-0 is being drained"


@pytest.mark.parametrize("seed", range(5))
def test_a_shelf_gives_what_looking_at_all_hosts_gives(make: Any, seed: int) -> None:
    rng = random.Random(seed)
    hosts = [
        make.host(f"host-{number}", cpus=rng.choice([1, 2, 8]), memory_bytes=rng.randrange(2, 9) * GIB)
        for number in range(8)
    ]
    one, all_ = Scene(fleet_of(*hosts)), Scene(fleet_of(*hosts))
    shelf: Shelf | None = None
    for number in range(60):
        type = rng.choice(["t3.micro", "t3.small", "t3.medium", "c5.2xlarge"])
        machine: Taken = taken(make.instance(f"i-{number}", host=None, type=type))
        shelf = shelf or Shelf(one, machine)
        # Others are placed besides, which the shelf is not told of.
        place = one.place(Wish(machine)) if rng.random() < 0.2 else shelf.place(machine)
        first = verdicts(all_, Wish(machine))[0]
        expected = all_.place(Wish(machine))
        assert (place and place.host.id) == (expected and expected.host.id)
        assert (first.host if first.fits else None) == (expected and expected.host.id)


def test_stopped_instances_count_nowhere(make: Any) -> None:
    stopped: Instance = make.instance(state=InstanceState.stopped)
    assert Fleet().digest(stopped) is None
    assert Fleet().digest(replace(stopped, state=InstanceState.shutting_down, host=None)) is None
    assert Fleet().digest(replace(stopped, state=InstanceState.pending, host=None)) is not None
