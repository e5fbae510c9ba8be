from __future__ import annotations

import os

import pytest

from gureum.env import Env
from gureum.errors import NetworkError
from gureum.hostspec import GroupSpec, NetworkSpec, PortSpec, RuleSpec, SubnetSpec, VpcSpec
from gureum.network.base import HostNetwork
from gureum.network.fake import FakeNetwork, FakeWires

VPC = VpcSpec(
    id="vpc-1", network_id=1, cidr="10.0.0.0/16", subnets=(SubnetSpec(id="subnet-1", cidr="10.0.0.0/24"),)
)
GROUP = GroupSpec(id="sg-1", rules=(RuleSpec(egress=True, cidr="0.0.0.0/0"), RuleSpec(cidr="0.0.0.0/0")))


def spec(*numbers: int) -> NetworkSpec:
    ports = tuple(
        PortSpec(
            id=f"eni-{number}",
            instance=f"i-{number}",
            vpc="vpc-1",
            subnet="subnet-1",
            mac=f"06:00:00:00:00:{number:02x}",
            private_ip=f"10.0.0.{number}",
            groups=("sg-1",),
        )
        for number in numbers
    )
    return NetworkSpec(vpcs=(VPC,), ports=ports, groups=(GROUP,))


async def test_wires_outlive_the_agent() -> None:
    wires = FakeWires()
    network: HostNetwork = FakeNetwork(Env(), "host-1", wires)
    await network.apply(spec(4, 5))
    await network.close()
    again = FakeNetwork(Env(), "host-1", wires)
    os.close(await again.open_port("eni-4"))
    assert again.mtu("eni-4") == 1500
    assert wires.may_talk("host-1", "eni-4", "eni-5", "tcp", 80)
    await again.apply(spec(5))
    with pytest.raises(NetworkError):
        await again.open_port("eni-4")
    assert not wires.may_talk("host-1", "eni-4", "eni-5", "tcp", 80)
    await again.teardown()
    assert wires.ports == {}


async def test_a_crash_leaves_half_and_the_next_apply_heals() -> None:
    wires = FakeWires()

    def crash(name: str) -> None:
        if name == "network.port.created":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await FakeNetwork(Env(crashpoint=crash), "host-1", wires).apply(spec(4, 5))
    assert list(wires.ports["host-1"]) == ["eni-4"]
    await FakeNetwork(Env(), "host-1", wires).apply(spec(5))
    assert list(wires.ports["host-1"]) == ["eni-5"]


async def test_nonsense_and_failing_hosts() -> None:
    wires = FakeWires()
    network = FakeNetwork(Env(), "host-1", wires)
    with pytest.raises(NetworkError):
        await network.apply(spec(4, 4))
    wires.failing.add("host-1")
    with pytest.raises(NetworkError, match="host-1"):
        await network.apply(spec(4))
