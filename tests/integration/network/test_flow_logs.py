"""Flow logs of real packets."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import msgspec
import pytest

from gureum.env import Env
from gureum.hostspec import AclEntrySpec, AclSpec, FlowLogSpec, NetworkSpec, SubnetSpec
from gureum.network import flowsets
from gureum.network.kernel import KernelNetwork
from gureum.network.namespaces import visit

from .conftest import CLOSED, INDEX, OPEN, Guest, Rig, port, spec, vpc

pytestmark = pytest.mark.root

CUSTOM = (
    "${interface-id} ${srcaddr} ${srcport} ${dstport} ${tcp-flags} ${action} ${flow-direction} ${version}"
)


def network(rig: Rig, directory: Path) -> KernelNetwork:
    return KernelNetwork(
        Env(), f"cloud-{INDEX}", INDEX, rig.run_dir, metadata=lambda id: None, flow_logs=directory
    )


def log(id: str = "fl-1", **fields: object) -> FlowLogSpec:
    values = {"account": "123", "ports": ("eni-15",), "traffic": "ALL", "interval_seconds": 3600, **fields}
    return FlowLogSpec(id=id, **values)  # type: ignore[arg-type]


def logged(*logs: FlowLogSpec, acl: tuple[AclEntrySpec, ...] = ()) -> NetworkSpec:
    subnet = SubnetSpec(id="subnet-1", cidr="172.31.0.0/28", acl="acl-1" if acl else "", route_table="rtb-1")
    other = SubnetSpec(id="subnet-2", cidr="172.31.16.0/20", route_table="rtb-1")
    network = vpc(1, subnets=(subnet, other), acls=(AclSpec(id="acl-1", entries=acl),))
    far = msgspec.structs.replace(port(6), subnet="subnet-2", private_ip="172.31.16.6")
    ports = (port(5), far, port(7, groups=("sg-2",)))
    return spec(*ports, groups=(OPEN, CLOSED), vpcs=(network,), flow_logs=logs)


async def guests(rig: Rig, current: NetworkSpec) -> tuple[Guest, Guest, Guest]:
    await rig.network.apply(current)
    a, c = [await rig.guest(current.ports[n], configure=False) for n in (0, 2)]
    b = await rig.guest(current.ports[1], configure=False)
    await rig.call(a.configure, "172.31.0.1", 28)
    await rig.call(c.configure, "172.31.0.1", 28)
    await rig.call(b.configure, "172.31.16.1")
    return a, b, c


async def lines(rig: Rig, path: Path) -> list[list[str]]:
    """What is written of all that passed until now."""
    before = path.read_text() if path.exists() else ""
    flow_logs = rig.network._flow_logs
    assert flow_logs is not None
    await flow_logs.write(1)
    return [line.split(" ") for line in path.read_text().removeprefix(before).splitlines()]


def send(guest: Guest, address: str, number: int, count: int = 1, source: int = 4000) -> None:
    def work() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("", source))
            for _ in range(count):
                sock.sendto(b"0123456789", (address, number))

    visit(guest.namespace, work)


async def test_what_passes_and_what_is_refused(rig: Rig, tmp_path: Path) -> None:
    rig.network = network(rig, tmp_path)
    a, b, c = await guests(rig, logged(log(), log("fl-2", traffic="REJECT"), log("fl-3", ports=("eni-17",))))
    one, two, three = [tmp_path / f"fl-{number}.log" for number in (1, 2, 3)]
    assert [line[2:] for line in await lines(rig, one)] == [
        ["eni-15", "-", "-", "-", "-", "-", "-", "-", *line[10:12], "-", "NODATA"]
        for line in [one.read_text().split()]
    ]
    with a.listen(5000, socket.SOCK_DGRAM) as server:
        send(b, a.ip, 5000, 3)
        assert [server.recv(99) for _ in range(3)] == [b"0123456789"] * 3
    send(a, c.ip, 6000)
    assert await rig.call(b.pings, a.ip)
    await asyncio.sleep(0.1)
    found = sorted(line[3:10] + line[12:] for line in await lines(rig, one))
    assert found == sorted(
        [
            [b.ip, a.ip, "4000", "5000", "17", "3", "114", "ACCEPT", "OK"],
            # What the receiver refuses was accepted here.
            [a.ip, c.ip, "4000", "6000", "17", "1", "38", "ACCEPT", "OK"],
            [b.ip, a.ip, "0", "0", "1", "1", "84", "ACCEPT", "OK"],
            [a.ip, b.ip, "0", "0", "1", "1", "84", "ACCEPT", "OK"],
        ]
    )
    assert {line.split()[-1] for line in two.read_text().splitlines()} == {"NODATA"}
    refused = three.read_text().splitlines()[-1].split()
    assert refused[:10] == ["2", "123", "eni-17", a.ip, c.ip, "4000", "6000", "17", "1", "38"]
    assert refused[12:] == ["REJECT", "OK"]


async def test_answers_that_an_acl_refuses(rig: Rig, tmp_path: Path) -> None:
    rig.network = network(rig, tmp_path)
    inward = AclEntrySpec(number=1, cidr="0.0.0.0/0")
    a, b, _ = await guests(rig, logged(log(format=CUSTOM), acl=(inward,)))
    with a.listen(80):
        assert not await rig.call(b.reaches, a.ip, 80)
    found = [line for line in await lines(rig, tmp_path / "fl-1.log") if line[1] in (a.ip, b.ip)]
    assert {(line[1], *line[4:]) for line in found} == {
        (b.ip, "2", "ACCEPT", "ingress", "5"),
        (a.ip, "18", "REJECT", "egress", "5"),
    }
    open_acl = (inward, AclEntrySpec(number=1, cidr="0.0.0.0/0", egress=True))
    await rig.network.apply(logged(log(format=CUSTOM), acl=open_acl))
    await lines(rig, tmp_path / "fl-1.log")
    with a.listen(80):
        assert await rig.call(b.reaches, a.ip, 80)
    await asyncio.sleep(0.1)
    flags = {line[1]: int(line[4]) for line in await lines(rig, tmp_path / "fl-1.log")}
    assert flags[b.ip] & 2
    assert flags[a.ip] & 18 == 18


async def test_an_agent_that_begins_anew_goes_on(rig: Rig, tmp_path: Path) -> None:
    rig.network = network(rig, tmp_path)
    a, b, _ = await guests(rig, logged(log()))
    send(b, a.ip, 5000, 2)
    await rig.network.close()
    send(b, a.ip, 5000, 3)
    rig.network = network(rig, tmp_path)
    await rig.network.apply(logged(log()))
    send(b, a.ip, 5000, 4)
    found = await lines(rig, tmp_path / "fl-1.log")
    assert [line[8] for line in found if line[6] == "5000"] == ["9"]
    # Nothing is counted twice.
    assert [line[13] for line in await lines(rig, tmp_path / "fl-1.log")] == ["NODATA"]


async def test_more_flows_than_there_is_room_for(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flowsets, "FLOWS_MAX", 3)
    rig.network = network(rig, tmp_path)
    a, b, _ = await guests(rig, logged(log()))
    await lines(rig, tmp_path / "fl-1.log")
    for number in range(6):
        send(b, a.ip, 5000 + number)
    found = await lines(rig, tmp_path / "fl-1.log")
    assert len([line for line in found if line[7] == "17"]) == 3
    assert found[-1][13] == "SKIPDATA"


async def test_lines_are_written_by_themselves(rig: Rig, tmp_path: Path) -> None:
    rig.network = network(rig, tmp_path / "made")
    a, b, _ = await guests(rig, logged(log(interval_seconds=1)))
    path = tmp_path / "made" / "fl-1.log"
    for _ in range(100):
        send(b, a.ip, 5000)
        if path.exists() and " 5000 " in path.read_text():
            break
        await asyncio.sleep(0.1)
    assert " 5000 " in path.read_text()
    await rig.network.apply(logged())
    assert rig.network._applied is not None
