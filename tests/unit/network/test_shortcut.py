from __future__ import annotations

import logging
from ipaddress import IPv4Network

import msgspec
import pytest

from gureum.hostspec import FlowLogSpec, NetworkSpec, PortKind, PortSpec, SubnetSpec, VpcSpec
from gureum.network import bpf, shortcut
from gureum.network.filters import filter_table
from gureum.network.names import VXLAN, Names
from gureum.network.plan import VpcPlan, make_plan
from gureum.network.shortcut import Device, Shortcuts, devices, note_rules
from gureum.network.ways import NOWHERE

NAMES = Names(0)


def plan(*logs: FlowLogSpec) -> VpcPlan:
    subnet = SubnetSpec(id="subnet-1", cidr="172.31.0.0/20")
    ports = (
        PortSpec(
            id="eni-1", instance="i-1", vpc="vpc-1", subnet="subnet-1", mac="06:00:00:00:00:01",
            private_ip="172.31.0.5", groups=(),
        ),
        PortSpec(
            id="eni-2", kind=PortKind.nat, instance="", vpc="vpc-1", subnet="subnet-1",
            mac="06:00:00:00:00:02", private_ip="172.31.0.6", groups=(),
        ),
    )  # fmt: skip
    vpc = VpcSpec(id="vpc-1", network_id=1, cidr="172.31.0.0/16", subnets=(subnet,))
    spec = NetworkSpec(vpcs=(vpc,), ports=ports, mtu=1400, flow_logs=logs)
    return make_plan(spec, IPv4Network("198.18.0.0/22"))[1]


def test_a_machine_sends_from_its_own_ethernet_address_only() -> None:
    vpc = plan()
    machine, gateway = (vpc.ports[id].tap for id in ("eni-1", "eni-2"))
    assert devices(vpc, 0) == {machine: Device(1400, "06:00:00:00:00:01"), gateway: Device(1400)}
    assert devices(vpc, 8950)[VXLAN] == Device(8950, carrier=True)
    with_six = msgspec.structs.replace(vpc, cidrs6=("fd00::/56",))
    assert all(device.six for device in devices(with_six, 8950).values())


def test_what_is_logged_is_not_noted() -> None:
    plain, logged = (
        plan(),
        plan(FlowLogSpec(id="fl-1", account="1", traffic="ALL", interval_seconds=60, ports=("eni-1",))),
    )
    assert "@logged" not in note_rules(plain)[0]
    assert "iifname != @logged oifname != @logged" in note_rules(logged)[0]
    table = filter_table(logged, NAMES, "198.19.0.1")
    assert "logged" in table.sets
    assert table.chains["forward_ingress"].rules[:2] == note_rules(logged)


def test_only_established_flows_without_translation_are_noted() -> None:
    rule, _ = note_rules(plan())
    assert rule.startswith("ct state established ")
    assert 'iifname != "up" oifname != "up"' in rule
    # What routes by the lower half of the mark, and what VXLAN carries of it, is not touched.
    assert rule.endswith(f"meta mark set meta mark or {1 << 24:#x}")


def test_another_host_is_told_of_the_route_table_only_if_it_makes_a_difference() -> None:
    def routed(*networks: str) -> tuple[str, ...]:
        return note_rules(
            msgspec.structs.replace(plan(), tables={1: {}, 2: dict.fromkeys(networks, NOWHERE)})
        )

    inside = 'ct state established oifname "vx" ip daddr { 172.31.0.0/16 }'
    plain = f"{inside} meta mark set meta mark and 0x1000000"
    # Longer prefixes go first, and the VPC's own network is in every table.
    assert routed()[1:] == routed("0.0.0.0/0", "172.16.0.0/12", "10.0.0.0/8", "::/0")[1:] == (plain,)
    assert routed("0.0.0.0/0", "172.31.7.0/24")[1:] == ()


def test_a_kernel_that_has_it_not_is_asked_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[int] = []

    def create_map(*arguments: int) -> int:
        asked.append(arguments[0])
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(bpf, "create_map", create_map)
    ways = Shortcuts("nowhere")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            ways.close(anew=False)
            ways.open(plan(), 0)
    assert len(asked) == 1
    assert len(caplog.records) == 1


def test_what_was_opened_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[int] = []
    numbers = iter(range(100, 110))
    monkeypatch.setattr(bpf, "create_map", lambda *arguments: next(numbers))
    monkeypatch.setattr(bpf, "update", lambda *arguments: None)
    monkeypatch.setattr(bpf, "load", lambda program: next(numbers))
    monkeypatch.setattr(shortcut.os, "close", closed.append)
    way = shortcut.Shortcut()
    del way
    # Three maps, two programs for each family.
    assert closed == [100, 101, 102, 103, 104, 105, 106]
