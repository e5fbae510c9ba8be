"""Random groups: what the kernel lets through is what the reference model says."""

from __future__ import annotations

import itertools
import random
import socket

import pytest

from gureum.hostspec import GroupSpec, NetworkSpec, RuleSpec
from gureum.network.namespaces import visit
from gureum.network.reach import allows

from .conftest import Guest, Rig, port, spec

pytestmark = pytest.mark.root

ROUNDS = 15
PORTS = (1, 79, 80, 81, 443, 65535)
NETWORKS = ("0.0.0.0/0", "172.31.0.0/16", "172.31.0.4/30", "172.31.0.5/32", "172.31.0.6/31", "10.0.0.0/8")
GROUPS = ("sg-1", "sg-2", "sg-3")


def random_rule(rng: random.Random) -> RuleSpec:
    protocol = rng.choice(("udp", "udp", "udp", "17", "tcp", "icmp", "-1"))
    low, high = sorted(rng.choices(PORTS, k=2))
    ranged = protocol in ("udp", "17", "tcp")
    peer = {"group": rng.choice(GROUPS)} if rng.random() < 0.4 else {"cidr": rng.choice(NETWORKS)}
    return RuleSpec(
        egress=rng.random() < 0.5,
        protocol=protocol,
        from_port=low if ranged else -1,
        to_port=high if ranged else -1,
        **peer,
    )


def random_spec(rng: random.Random) -> NetworkSpec:
    groups = tuple(
        GroupSpec(id=id, rules=tuple(random_rule(rng) for _ in range(rng.randrange(7)))) for id in GROUPS
    )
    ports = tuple(port(n, groups=tuple(rng.sample(GROUPS, rng.randint(1, 3)))) for n in (4, 5, 6, 7))
    members = {id: tuple(each.private_ip for each in ports if id in each.groups) for id in GROUPS}
    return spec(*ports, groups=groups, members=members)


def send(guest: Guest, targets: list[tuple[str, int]]) -> None:
    def from_inside() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for target in targets:
                sock.sendto(b"probe", target)

    visit(guest.namespace, from_inside)


def heard(sniffer: socket.socket) -> set[tuple[str, int]]:
    """(source address, destination port) of the probes that arrived."""
    found = set()
    try:
        while True:
            frame = sniffer.recv(2000)
            incoming = frame[6:12] == bytes.fromhex("02677572756d")
            if incoming and frame[12:14] == b"\x08\x00" and frame[23] == 17 and frame.endswith(b"probe"):
                found.add((socket.inet_ntoa(frame[26:30]), int.from_bytes(frame[36:38], "big")))
    except TimeoutError:
        return found


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
                guests[each.id] = await rig.guest(each)
        wanted: dict[str, set[tuple[str, int]]] = {id: set() for id in guests}
        for source, target in itertools.permutations(guests, 2):
            for number in PORTS:
                if allows(current, source, target, "udp", number):
                    wanted[target].add((guests[source].ip, number))
                    passed += 1
                else:
                    stopped += 1
        sniffers = {id: guest.sniff() for id, guest in guests.items()}
        for source, guest in guests.items():
            send(guest, [(other.ip, n) for id, other in guests.items() if id != source for n in PORTS])
        for id, sniffer in sniffers.items():
            with sniffer:
                sniffer.settimeout(0.15)
                assert heard(sniffer) == wanted[id], (id, current)
    assert passed > 100
    assert stopped > 100
