"""Which changes give a host a new spec."""

from __future__ import annotations

import random
from typing import Any

import pytest
from msgspec.structs import replace

from gureum.control.session import MEANWHILE_MAX, Session
from gureum.hostspec import HostSpec, NetworkSpec, PortSpec, SubnetSpec, VpcSpec
from gureum.resources import (
    DhcpOptions,
    EgressGateway,
    InternetGateway,
    NetworkInterface,
    PeeringConnection,
    SecurityGroup,
    Subnet,
)
from gureum.resources.record import Record
from gureum.sim.link import Weather, pair
from gureum.store.base import Change

PORT = PortSpec(id="eni-1", vpc="vpc-1", subnet="subnet-1", mac="", private_ip="10.0.0.4")
NETWORK = NetworkSpec(
    vpcs=(
        VpcSpec(id="vpc-1", network_id=1, cidr="10.0.0.0/16", subnets=(SubnetSpec(id="subnet-1", cidr=""),)),
        VpcSpec(id="vpc-2", network_id=2, cidr="10.1.0.0/16"),
    ),
    ports=(PORT,),
)
SPEC = HostSpec(cloud="c", host="h", revision=10, network=NETWORK)


def change(record: Record, revision: int = 11) -> Change:
    return Change(revision, record.kind, record.id, record)


def gone(record: Record, revision: int = 11) -> Change:
    return Change(revision, record.kind, record.id, None)


def subnet(vpc: str, id: str = "subnet-9") -> Subnet:
    return Subnet(id=id, vpc=vpc, zone="a", cidr="10.0.0.0/24")


def peering(*vpcs: str) -> PeeringConnection:
    one, other = vpcs
    return PeeringConnection(
        id="pcx-1", number=1, requester=one, accepter=other, requester_account="1", accepter_account="1"
    )


@pytest.fixture
def session() -> Session:
    made = Session("h", pair(Weather(random.Random(1)))[0])
    made.begin()
    made.made(SPEC, 0.0)
    assert not made.dirty.is_set()
    return made


@pytest.mark.parametrize(
    ("record", "concerned"),
    [
        (subnet("vpc-1"), True),
        (subnet("vpc-2"), True),
        (subnet("vpc-3"), False),
        (SecurityGroup(id="sg-1", name="", description="", vpc="vpc-1"), True),
        (SecurityGroup(id="sg-1", name="", description="", vpc="vpc-3"), False),
        (InternetGateway(id="igw-1", vpc="vpc-1"), True),
        (InternetGateway(id="igw-1", vpc="vpc-3"), False),
        (InternetGateway(id="igw-1"), True),
        (EgressGateway(id="eigw-1", vpc="vpc-1"), True),
        (EgressGateway(id="eigw-1", vpc="vpc-3"), False),
        (DhcpOptions(id="dopt-1", options={}), True),
        (peering("vpc-2", "vpc-3"), True),
        (peering("vpc-4", "vpc-3"), False),
    ],
)
def test_changes_of_the_network(session: Session, record: Record, concerned: bool) -> None:
    session.note(change(record))
    assert session.dirty.is_set() == concerned


def test_what_comes_to_the_host_and_what_leaves_it(session: Session, make: Any) -> None:
    session.note(change(make.instance(host="other")))
    assert not session.dirty.is_set()
    session.note(change(make.instance(host="h")))
    assert session.dirty.is_set()
    moved: NetworkInterface = make.interface("eni-1", vpc="vpc-1")
    for record in (replace(moved, host="other"), replace(moved, host=None)):
        session.dirty.clear()
        session.note(change(record))
        assert session.dirty.is_set()


def test_what_is_deleted_matters_where_it_was(session: Session) -> None:
    session.note(gone(subnet("vpc-1", "subnet-2")))
    assert not session.dirty.is_set()
    session.note(gone(subnet("vpc-1", "subnet-1")))
    assert session.dirty.is_set()


def test_of_a_deleted_gateway_nobody_knows_whose_it_was(session: Session) -> None:
    session.note(gone(EgressGateway(id="eigw-1", vpc="vpc-1")))
    assert session.dirty.is_set()


def test_what_the_spec_was_made_from_is_no_news(session: Session) -> None:
    session.note(change(subnet("vpc-1"), 10))
    assert not session.dirty.is_set()


def test_what_changes_while_a_spec_is_made_is_not_missed(session: Session) -> None:
    session.begin()
    session.note(change(subnet("vpc-3"), 12))
    assert not session.dirty.is_set()
    session.made(replace(SPEC, revision=12), 0.0)
    assert not session.dirty.is_set()
    session.begin()
    session.note(change(subnet("vpc-3"), 13))
    grown = replace(NETWORK, vpcs=(*NETWORK.vpcs, VpcSpec(id="vpc-3", network_id=3, cidr="10.3.0.0/16")))
    session.made(replace(SPEC, revision=12, network=grown), 0.0)
    assert session.dirty.is_set()


def test_too_much_meanwhile_and_a_failure_both_ask_for_another(session: Session) -> None:
    session.begin()
    for revision in range(MEANWHILE_MAX + 1):
        session.note(change(subnet("vpc-9"), 20 + revision))
    assert session.dirty.is_set()
    session.begin()
    session.failed()
    assert session.dirty.is_set()
