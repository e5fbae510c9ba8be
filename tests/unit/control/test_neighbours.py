"""Where all interfaces are: what is kept in memory must be what the store says."""

from __future__ import annotations

import contextlib
import random
from typing import Any

from msgspec.structs import replace

from gureum.control.neighbours import Following, Neighbours
from gureum.control.networks import Networks, Ports
from gureum.control.specs import host_spec
from gureum.errors import IllegalTransition
from gureum.hostspec import HostSpec
from gureum.resources import NetworkInterface, Permission, SecondaryAddress, SecurityGroup, Vpc
from gureum.services.operation import Cloud
from gureum.store.base import Transaction
from gureum.store.sqlite import SqliteStore

CLOUD = Cloud(
    name="test",
    account="123456789012",
    region="us-east-1",
    zones=("us-east-1a",),
    public_cidr="198.18.0.0/24",
)
BOTH = ("vpc-1", "vpc-2")


def ids(neighbours: Neighbours, host: str = "host-0", vpcs: tuple[str, ...] = ("vpc-1",)) -> list[str]:
    return [each.id for each in neighbours.remotes(vpcs, host)]


def test_those_on_other_hosts_in_order(make: Any) -> None:
    places = {"eni-3": "host-1", "eni-1": "host-1", "eni-2": "host-0", "eni-4": None}
    neighbours = Neighbours(make.interface(id, host=host) for id, host in places.items())
    assert ids(neighbours) == ["eni-1", "eni-3"]
    assert ids(neighbours, "host-1") == ["eni-2"]
    assert ids(neighbours, vpcs=("vpc-2",)) == []
    neighbours.put(make.interface("eni-0", host="host-2", vpc="vpc-2"))
    assert ids(neighbours, vpcs=BOTH) == ["eni-0", "eni-1", "eni-3"]
    neighbours.put(make.interface("eni-1", host="host-0"))
    neighbours.remove("eni-3")
    neighbours.remove("eni-9")
    assert ids(neighbours) == []


def test_a_remote_has_all_its_addresses(make: Any) -> None:
    second = SecondaryAddress(private_ip="172.31.0.9", public_ip="198.18.0.9")
    interface = make.interface(host="host-1", secondary=(second,), ipv6=("fd00::1",), public_ip="198.18.0.1")
    [remote] = Neighbours([interface]).remotes(["vpc-1"], "host-0")
    assert [(each.private_ip, each.public_ip) for each in remote.addresses] == [
        ("172.31.0.4", "198.18.0.1"),
        ("172.31.0.9", "198.18.0.9"),
    ]
    assert (remote.host, remote.vpc, remote.ipv6) == ("host-1", "vpc-1", ("fd00::1",))


def test_members_follow_their_groups(make: Any) -> None:
    one = make.interface("eni-1", host="host-0", groups=("sg-1", "sg-2"), private_ip="10.0.0.9")
    neighbours = Neighbours([one, make.interface("eni-2", host="host-1", groups=("sg-1",))])
    assert neighbours.members("sg-1", ["vpc-1"]) == ("10.0.0.9", "172.31.0.4")
    assert neighbours.members("sg-1", ["vpc-2"]) == ()
    neighbours.put(replace(one, groups=("sg-2",)))
    assert neighbours.members("sg-1", ["vpc-1"]) == ("172.31.0.4",)
    assert neighbours.members("sg-2", ["vpc-1"]) == ("10.0.0.9",)
    neighbours.put(replace(one, host=None))
    assert neighbours.members("sg-2", ["vpc-1"]) == ()


async def test_following_is_as_reading_anew(make: Any) -> None:
    """Random changes; after each, both ways give the same spec."""
    store = SqliteStore.open(":memory:", threaded=False, tombstones_kept=3)
    following, rng = Following(store), random.Random(1)

    async def change(tx: Transaction) -> None:
        number = rng.randrange(6)
        found = await tx.get(NetworkInterface, f"eni-{number}")
        if found is not None and rng.random() < 0.4:
            await tx.delete(found)
            return
        values = {"host": rng.choice(["host-0", "host-1", None]), "groups": (f"sg-{rng.randrange(2)}",)}
        vpc = rng.choice(BOTH)
        new = make.interface(f"eni-{number}", private_ip=f"10.0.0.{number}", vpc=vpc, **values)
        await tx.put(new if found is None else replace(found, **values))

    for number, vpc in enumerate(BOTH):
        await store.transact(_putting(Vpc(id=vpc, account="1", cidr="10.0.0.0/16", network_id=number + 1)))
    for step in range(60):
        for _ in range(rng.choice([1, 1, 2, 7])):
            await store.transact(change)
        if step % 7 == 3:
            await store.transact(_putting(make.host(f"host-{step}")))
        async with following.read() as (reader, neighbours):
            assert neighbours is not None
            with_them = await host_spec(reader, CLOUD, "host-0", neighbours)
            assert with_them == await host_spec(reader, CLOUD, "host-0")
    await store.close()


def told(spec: HostSpec) -> set[str]:
    parts = spec.machines, spec.volumes, spec.snapshots
    cards = {each.id for machine in spec.machines for each in machine.metadata.interfaces}
    return {each.id for part in parts for each in part} | cards


async def test_what_is_more_than_a_network_is_noticed(make: Any) -> None:
    """Whatever changes: if it is said that a host has nothing new but its network, that is so."""
    store, rng = SqliteStore.open(":memory:", threaded=False), random.Random(7)
    following = Following(store)
    whole = None
    only = 0

    async def change(tx: Transaction) -> None:
        host, number = rng.choice(["host-0", "host-0", "host-1", None]), rng.randrange(3)
        match rng.randrange(7):
            case 0 | 1:
                records = [make.instance(f"i-{number}", host=host)]
            case 2:
                records = [make.volume(f"vol-{number}", host=host)]
            case 3 | 4:
                group = SecurityGroup(
                    id=f"sg-{number % 2}", account="1", name="g", description="", vpc="vpc-1"
                )
                rule = Permission(id="sgr-1", protocol="tcp", from_port=rng.randrange(9), to_port=9)
                records = [replace(group, rules=(rule,))]
            case _:
                values = {"instance": f"i-{rng.randrange(3)}", "groups": (f"sg-{rng.randrange(2)}",)}
                records = [
                    make.interface(f"eni-{number}", host=host, private_ip=f"10.0.0.{number}", **values)
                ]
        for record in records:
            found = await tx.get(type(record), record.id)
            if found is not None and rng.random() < 0.2:
                await tx.delete(found)
                continue
            await tx.put(replace(record, version=found.version if found is not None else 0))

    await store.transact(_putting(Vpc(id="vpc-1", account="1", cidr="10.0.0.0/16", network_id=1)))
    for _ in range(400):
        for _ in range(rng.choice([1, 1, 1, 2])):
            with contextlib.suppress(IllegalTransition):
                await store.transact(change)
        async with following.read() as (reader, neighbours):
            assert neighbours is not None
            spec = await host_spec(reader, CLOUD, "host-0", neighbours)
            if whole is None or not following.only_networks_since("host-0", whole.revision, told(whole)):
                whole = spec
                continue
            only += 1
            load = Networks.load(reader, CLOUD, "host-0", neighbours, Ports(whole.network.ports))
            whole = replace(whole, revision=spec.revision, network=(await load).spec())
            assert whole == spec
    assert only > 50
    await store.close()


def _putting(record: Any) -> Any:
    async def put(tx: Transaction) -> None:
        await tx.put(record)

    return put


async def test_networks_of_all_hosts_have_no_remotes(bench: Any, make: Any) -> None:
    await bench.put(Vpc(id="vpc-1", account="1", cidr="10.0.0.0/16", network_id=1))
    await bench.put(make.interface("eni-1", host="host-0"), make.interface("eni-2", host="host-1"))
    async with bench.store.read() as reader:
        spec = (await Networks.whole(reader, CLOUD, ["vpc-1"])).spec()
    assert [port.id for port in spec.ports] == ["eni-1", "eni-2"]
    assert spec.remotes == ()
