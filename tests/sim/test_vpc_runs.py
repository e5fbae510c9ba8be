"""Seeded runs of a cloud of several hosts whose users mostly change networks."""

from __future__ import annotations

import pytest

from gureum.sim.run import Outcome, simulate

SEEDS = 40
STEPS = 100
HOSTS = 3
BATCH = 10

CALLS = (
    *(
        "CreateVpc",
        "DeleteVpc",
        "CreateSubnet",
        "DeleteSubnet",
        "AttachInternetGateway",
        "DetachInternetGateway",
    ),
    *("CreateRouteTable", "AssociateRouteTable", "DisassociateRouteTable", "CreateRoute", "DeleteRoute"),
    *("CreateNetworkInterface", "AttachNetworkInterface", "DetachNetworkInterface", "DeleteNetworkInterface"),
    *("AssignPrivateIpAddresses", "UnassignPrivateIpAddresses", "ModifyNetworkInterfaceAttribute"),
    *("AssociateAddress", "DisassociateAddress", "CreateNatGateway", "DeleteNatGateway"),
    *("CreateVpcPeeringConnection", "AcceptVpcPeeringConnection", "DeleteVpcPeeringConnection"),
    *("CreateNetworkAclEntry", "ReplaceNetworkAclAssociation", "CreateSecurityGroup", "DeleteSecurityGroup"),
    *("AuthorizeSecurityGroupIngress", "RevokeSecurityGroupIngress", "ModifyManagedPrefixList"),
)


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    return []


@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_random_networks_under_random_faults_come_to_rest(first: int, outcomes: list[Outcome]) -> None:
    outcomes += [simulate(seed, STEPS, HOSTS, networks=True) for seed in range(first, first + BATCH)]


def test_the_runs_made_and_deleted_everything(outcomes: list[Outcome]) -> None:
    """The dice must fall on every call, or the runs prove nothing."""
    if len(outcomes) < SEEDS:
        pytest.skip("only with all runs")
    answered = {name for outcome in outcomes for name in outcome.answers}
    assert not set(CALLS) - answered
    assert any(name.startswith("network.") for outcome in outcomes for name in outcome.crashes)


def test_an_only_host() -> None:
    for seed in range(BATCH // 2):
        simulate(seed, STEPS, networks=True)


def test_a_seed_replays_to_the_same_end() -> None:
    assert simulate(3, STEPS, HOSTS, networks=True).digest == simulate(3, STEPS, HOSTS, networks=True).digest
