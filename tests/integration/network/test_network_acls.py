"""Network ACLs with real packets: in order, for each packet, at the subnet's border only."""

from __future__ import annotations

import asyncio
import re
import socket
from pathlib import Path

import msgspec
import pytest

from gureum.hostspec import AclEntrySpec, AclSpec, GroupSpec, NetworkSpec, PortSpec, SubnetSpec
from gureum.network import vpc as network_vpc
from gureum.network.namespaces import command, visit

from .conftest import ALL_IN, ALL_OUT, INDEX, SERVER, Guest, Rig, _listen, metadata, port, spec, vpc

pytestmark = pytest.mark.root

INSIDE, NEAR, FAR = port(5), port(6), msgspec.structs.replace(port(7), subnet="subnet-2")
FAR = msgspec.structs.replace(FAR, private_ip="172.31.16.7")
ALL4 = "0.0.0.0/0"


def entry(number: int, **fields: object) -> AclEntrySpec:
    return AclEntrySpec(**{"number": number, "cidr": ALL4, **fields})  # type: ignore[arg-type]


def guarded(*entries: AclEntrySpec, ports: tuple[PortSpec, ...] = (INSIDE, NEAR, FAR)) -> NetworkSpec:
    """Subnet 1 with this ACL, subnet 2 with none."""
    subnets = (
        SubnetSpec(id="subnet-1", cidr="172.31.0.0/20", route_table="rtb-1", acl="acl-1"),
        SubnetSpec(id="subnet-2", cidr="172.31.16.0/20", route_table="rtb-1"),
    )
    acl = AclSpec(id="acl-1", entries=entries)
    return spec(*ports, vpcs=(vpc(1, subnets=subnets, acls=(acl,)),))


async def guests(rig: Rig, current: NetworkSpec) -> tuple[Guest, Guest, Guest]:
    await rig.network.apply(current)
    a, b = await rig.guest(INSIDE), await rig.guest(NEAR)
    c = await rig.guest(FAR, configure=False)
    await rig.call(c.configure, "172.31.16.1")
    return a, b, c


async def test_the_first_entry_that_matches_decides(rig: Rig) -> None:
    out = entry(100, egress=True)
    web = {"protocol": "tcp", "from_port": 80, "to_port": 81}
    deny = {"protocol": "tcp", "from_port": 80, "to_port": 80, "allow": False}
    a, _, c = await guests(rig, guarded(out, entry(10, **deny), entry(20, **web)))
    with a.listen(80), a.listen(81), a.listen(82):
        assert [await rig.call(c.reaches, a.ip, p) for p in (80, 81, 82)] == [False, True, False]
        await rig.network.apply(guarded(out, entry(10, **web), entry(20, **deny)))
        assert [await rig.call(c.reaches, a.ip, p) for p in (80, 81, 82)] == [True, True, False]
        await rig.network.apply(guarded(out))
        assert not await rig.call(c.reaches, a.ip, 81)


async def test_answers_need_an_entry_of_their_own(rig: Rig) -> None:
    web = entry(10, protocol="6", from_port=80, to_port=80)
    back = entry(10, egress=True, protocol="6", from_port=1024, to_port=65535)
    a, _, c = await guests(rig, guarded(web))
    with a.listen(80) as server, c.listen(80):
        assert not await rig.call(c.reaches, a.ip, 80)
        await rig.network.apply(guarded(web, back))
        connection = await rig.call(c.connect, a.ip, 80)
        assert connection is not None
        assert not await rig.call(a.reaches, c.ip, 80)
        # What is established is no exception.
        accepted, _ = server.accept()
        accepted.settimeout(0.5)
        with connection, accepted:
            await rig.network.apply(guarded(back))
            connection.sendall(b"late")
            with pytest.raises(TimeoutError):
                await rig.call(accepted.recv, 4)


async def test_nothing_inside_the_subnet_is_asked(rig: Rig) -> None:
    a, b, c = await guests(rig, guarded())
    with a.listen(80), c.listen(80):
        assert await rig.call(b.reaches, a.ip, 80)
        assert not await rig.call(c.reaches, a.ip, 80)
        assert not await rig.call(b.reaches, c.ip, 80)


async def test_types_of_icmp(rig: Rig) -> None:
    echo = {"protocol": "1", "from_port": 8, "to_port": 0}
    answer = {"protocol": "1", "from_port": 0, "to_port": -1}
    a, _, c = await guests(rig, guarded(entry(10, **echo), entry(10, egress=True, **answer)))
    assert await rig.call(c.pings, a.ip)
    assert not await rig.call(a.pings, c.ip)


async def test_the_routers_services_are_not_asked(rig: Rig) -> None:
    rig.metadata["i-15"] = metadata(INSIDE, tokens_required=False)
    a, _, _ = await guests(rig, guarded())
    address = "http://169.254.169.254/latest/meta-data/local-ipv4"
    assert (await rig.call(a.run, "busybox", "wget", "-q", "-O-", address)).stdout == a.ip
    assert (await rig.call(a.run, "busybox", "nslookup", "ip-172-31-0-6.ec2.internal", "172.31.0.2")).stdout


async def test_the_internet_is_outside(rig: Rig) -> None:
    ports = (msgspec.structs.replace(INSIDE, public_ip=port(5, public=True).public_ip), NEAR, FAR)
    out = entry(10, egress=True, protocol="6", from_port=80, to_port=80)
    back = entry(10, protocol="6", from_port=1024, to_port=65535)
    a, _, _ = await guests(rig, guarded(out, ports=ports))
    with rig.internet(lambda: _listen(80, socket.SOCK_STREAM)):
        assert not await rig.call(a.reaches, SERVER, 80)
        await rig.network.apply(guarded(out, back, ports=ports))
        assert await rig.call(a.reaches, SERVER, 80)
        await rig.network.apply(guarded(back, ports=ports))
        assert not await rig.call(a.reaches, SERVER, 80)


async def test_a_change_under_load_never_opens_a_hole(rig: Rig) -> None:
    """Entries, groups and members change all the time; what none of them ever allowed never arrives."""
    shut = GroupSpec(id="sg-1", rules=(ALL_OUT, msgspec.structs.replace(ALL_IN, protocol="tcp")))
    opened = GroupSpec(id="sg-1", rules=(ALL_OUT, msgspec.structs.replace(ALL_IN, group="sg-9", cidr="")))
    denied = entry(10, protocol="17", allow=False)
    variants = [
        msgspec.structs.replace(guarded(*entries), groups=(group,), members={"sg-9": ()})
        for group in (shut, opened)
        for entries in ((denied, entry(20), entry(20, egress=True)), (denied, entry(9, egress=True)))
    ]
    a, b, c = await guests(rig, variants[0])
    stop = False

    def flood(guest: Guest) -> int:
        def send() -> int:
            sent = 0
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                while not stop:
                    sent += sock.sendto(b"hole", (a.ip, 4000)) > 0
            return sent

        return visit(guest.namespace, send)

    with a.listen(4000, socket.SOCK_DGRAM) as server:
        server.settimeout(0.3)
        floods = [asyncio.create_task(asyncio.to_thread(flood, guest)) for guest in (b, c)]
        for number in range(24):
            await rig.network.apply(variants[number % len(variants)])
        stop = True
        sent = await asyncio.gather(*floods)
        assert min(sent) > 100
        with pytest.raises(TimeoutError):
            server.recv(10)


async def test_many_ports_at_once_are_the_same_as_one_by_one(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rules of many ports are loaded while their routes are made."""
    current = guarded(entry(10, protocol="17"))

    def rules() -> str:
        text = visit(f"gm{INDEX}-1", lambda: command(["nft", "list", "ruleset"]))
        # Sets have no order, and chains have that in which they came.
        return "\n".join(sorted(re.sub(r"packets \d+ bytes \d+", "", text).splitlines()))

    def answers() -> dict[str, str]:
        """Who answers ARP for the world, and when."""
        files = [*Path("/proc/sys/net/ipv4/conf").glob("*/proxy_arp")]
        files += Path("/proc/sys/net/ipv4/neigh").glob("*/proxy_delay")
        return {str(file): file.read_text() for file in files}

    await rig.network.apply(current)
    one, answered = rules(), visit(f"gm{INDEX}-1", answers)
    await rig.network.teardown()
    monkeypatch.setattr(network_vpc, "APART_PORTS", 1)
    await rig.network.apply(current)
    assert rules() == one
    assert visit(f"gm{INDEX}-1", answers) == answered
    assert "1\n" in answered.values()
    a, b = await rig.guest(INSIDE), await rig.guest(NEAR)
    with a.listen(80):
        assert await rig.call(b.reaches, a.ip, 80)
