"""Random groups and ACLs in two subnets, IPv4 and IPv6: what the kernel lets through is what the reference
model says.
"""

from __future__ import annotations

import itertools
import random
import socket
from ipaddress import IPv6Address

import pytest

from gureum.hostspec import (
    AclEntrySpec,
    AclSpec,
    GroupSpec,
    NetworkSpec,
    PortSpec,
    RuleSpec,
    SubnetSpec,
)
from gureum.network.namespaces import visit
from gureum.network.reach import trace
from support import topologies

from .conftest import Guest, Rig, spec, vpc
from .test_network_ipv6 import guest as guest_with_ipv6
from .test_network_ipv6 import six

pytestmark = pytest.mark.root

ROUNDS = 12
NUMBERS = (4, 5, 104, 105)
PORTS = (1, 79, 80, 81, 443, 65535)
NETWORKS = (
    "0.0.0.0/0", "0.0.0.0/0", "172.31.0.0/16", "172.31.0.0/20", "172.31.0.4/30", "172.31.0.5/32",
    "172.31.16.104/31", "10.0.0.0/8", "::/0", "::/0", "fd00:1::/56", "fd00:1:0:1::/64",
    "fd00:1:0:2::68/127", "fd00:1:0:1::5/128",
)  # fmt: skip
GROUPS = topologies.GROUPS


def traffic(rng: random.Random) -> dict[str, object]:
    protocol = rng.choice(("udp", "udp", "udp", "17", "tcp", "icmp", "-1", "-1"))
    low, high = sorted(rng.choices(PORTS, k=2))
    ranged = protocol in ("udp", "17", "tcp")
    return {"protocol": protocol, "from_port": low if ranged else -1, "to_port": high if ranged else -1}


def random_rules(rng: random.Random) -> list[RuleSpec]:
    """One rule; or those of a prefix list."""
    fields = {"egress": rng.random() < 0.5, **traffic(rng)}
    if rng.random() < 0.4:
        return [RuleSpec(group=rng.choice(GROUPS), **fields)]  # type: ignore[arg-type]
    count = 1 if rng.random() < 0.8 else 5
    return [RuleSpec(cidr=cidr, **fields) for cidr in rng.sample(NETWORKS, count)]  # type: ignore[arg-type]


def random_acl(rng: random.Random, id: str) -> AclSpec:
    numbers = sorted(rng.sample(range(1, 100), rng.randrange(8)))
    entries = [
        AclEntrySpec(
            number=number,
            egress=rng.random() < 0.5,
            allow=rng.random() < 0.75,
            cidr=rng.choice(NETWORKS),
            **(traffic(rng) if rng.random() < 0.6 else {}),  # type: ignore[arg-type]
        )
        for number in numbers
    ]
    return AclSpec(id=id, entries=tuple(entries))


def random_spec(rng: random.Random) -> NetworkSpec:
    groups = tuple(
        GroupSpec(id=id, rules=tuple(r for _ in range(rng.randrange(7)) for r in random_rules(rng)))
        for id in GROUPS
    )
    ports = [six(n, groups=tuple(rng.sample(GROUPS, rng.randint(1, 3)))) for n in NUMBERS]
    subnets = tuple(
        SubnetSpec(
            id=f"subnet-{number}",
            cidr=f"172.31.{16 * (number - 1)}.0/20",
            cidr6=f"fd00:1:0:{number}::/64",
            acl=rng.choice(("", "acl-1", "acl-2")),
        )
        for number in (1, 2)
    )
    acls = tuple(random_acl(rng, f"acl-{number}") for number in (1, 2))
    network = vpc(1, subnets=subnets, cidrs=("fd00:1::/56",), acls=acls, route_tables=())
    members = {id: topologies.members(ports, id) for id in GROUPS}
    return spec(*ports, groups=groups, members=members, vpcs=(network,))


def send(guest: Guest, targets: list[tuple[str, int]]) -> None:
    def from_inside() -> None:
        for family in (socket.AF_INET, socket.AF_INET6):
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                for address, number in targets:
                    if (":" in address) == (family == socket.AF_INET6):
                        sock.sendto(b"probe", (address, number))

    visit(guest.namespace, from_inside)


def heard(sniffer: socket.socket) -> set[tuple[str, int]]:
    """(source address, destination port) of the probes that arrived."""
    found = set()
    try:
        while True:
            frame = sniffer.recv(2000)
            if frame[6:12] != bytes.fromhex("02677572756d") or not frame.endswith(b"probe"):
                continue
            if frame[12:14] == b"\x08\x00" and frame[23] == 17:
                found.add((socket.inet_ntoa(frame[26:30]), int.from_bytes(frame[36:38], "big")))
            if frame[12:14] == b"\x86\xdd" and frame[20] == 17:
                found.add((str(IPv6Address(frame[22:38])), int.from_bytes(frame[56:58], "big")))
    except TimeoutError:
        return found


def arrives(current: NetworkSpec, source: PortSpec, address: str, number: int) -> bool:
    """Whether the model lets the packet itself get there, whatever becomes of an answer."""
    path = trace(current, source.id, address, "udp", number)
    return all(hop.passes for hop in path.hops)


@pytest.mark.parametrize("seed", [1, 2])
async def test_kernel_and_model_agree(rig: Rig, seed: int) -> None:
    rng = random.Random(seed)
    passed = stopped = 0
    guests: dict[str, Guest] = {}
    for _ in range(ROUNDS):
        current = random_spec(rng)
        await rig.network.apply(current)
        for each in current.ports:
            if each.id not in guests:
                guests[each.id] = await guest_with_ipv6(rig, each)
                gateway = "172.31.0.1" if each.subnet == "subnet-1" else "172.31.16.1"
                await rig.call(guests[each.id].configure, gateway)
        wanted: dict[str, set[tuple[str, int]]] = {id: set() for id in guests}
        probes: dict[str, list[tuple[str, int]]] = {id: [] for id in guests}
        for source, target in itertools.permutations(current.ports, 2):
            for own, other, number in itertools.product(
                (source.private_ip, *source.ipv6), (target.private_ip, *target.ipv6), PORTS
            ):
                if (":" in own) != (":" in other):
                    continue
                probes[source.id].append((other, number))
                if arrives(current, source, other, number):
                    wanted[target.id].add((own, number))
                    passed += 1
                else:
                    stopped += 1
        sniffers = {id: guest.sniff() for id, guest in guests.items()}
        for id, guest in guests.items():
            send(guest, probes[id])
        for id, sniffer in sniffers.items():
            with sniffer:
                sniffer.settimeout(0.25)
                assert heard(sniffer) == wanted[id], (id, current)
    assert passed > 100
    assert stopped > 200
