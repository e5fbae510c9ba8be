from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from gureum.resources import PeeringConnection, PeeringState, Vpc
from gureum.services.ec2.peering import EXPIRES_SECONDS

OTHER = "vpc-0123456789abcdef0"


async def mine(rig: Any) -> str:
    return next(vpc.id for vpc in await rig.find(Vpc) if vpc.default)  # type: ignore[no-any-return]


async def other(rig: Any, cidr: str = "10.0.0.0/16") -> None:
    await rig.put(Vpc(id=OTHER, account=rig.caller.account, cidr=cidr, network_id=77))


async def offer(rig: Any) -> str:
    await other(rig)
    answer = await rig.call("CreateVpcPeeringConnection", VpcId=await mine(rig), PeerVpcId=OTHER)
    made = answer["VpcPeeringConnection"]
    assert made["Status"]["Code"] == "pending-acceptance"
    assert "CidrBlock" not in made["AccepterVpcInfo"]
    return made["VpcPeeringConnectionId"]  # type: ignore[no-any-return]


async def status(rig: Any, id: str) -> str:
    shown = await rig.call("DescribeVpcPeeringConnections", VpcPeeringConnectionIds=[id])
    return shown["VpcPeeringConnections"][0]["Status"]["Code"]  # type: ignore[no-any-return]


async def test_an_offer_is_accepted(rig: Any) -> None:
    id = await offer(rig)
    answer = await rig.call("AcceptVpcPeeringConnection", VpcPeeringConnectionId=id)
    accepted = answer["VpcPeeringConnection"]
    assert accepted["Status"] == {"Code": "active", "Message": "Active"}
    assert accepted["AccepterVpcInfo"]["CidrBlock"] == "10.0.0.0/16"
    assert "ExpirationTime" not in accepted
    await rig.fails("InvalidStateTransition", "AcceptVpcPeeringConnection", VpcPeeringConnectionId=id)
    await rig.fails(
        "VpcPeeringConnectionAlreadyExists",
        "CreateVpcPeeringConnection",
        VpcId=OTHER,
        PeerVpcId=await mine(rig),
    )


async def test_an_offer_is_rejected_or_withdrawn(rig: Any) -> None:
    id = await offer(rig)
    await rig.call("RejectVpcPeeringConnection", VpcPeeringConnectionId=id)
    assert await status(rig, id) == "rejected"
    message = await rig.fails(
        "InvalidStateTransition", "DeleteVpcPeeringConnection", VpcPeeringConnectionId=id
    )
    assert message == f"Invalid state transition for {id}, attempted to transition from rejected to deleting"
    answer = await rig.call("CreateVpcPeeringConnection", VpcId=OTHER, PeerVpcId=await mine(rig))
    again = answer["VpcPeeringConnection"]["VpcPeeringConnectionId"]
    assert await rig.call("DeleteVpcPeeringConnection", VpcPeeringConnectionId=again) == {"Return": True}
    assert await status(rig, again) == "deleted"
    assert {each.number for each in await rig.find(PeeringConnection)} == {1, 2}


async def test_an_offer_does_not_stand_for_ever(rig: Any) -> None:
    id = await offer(rig)
    rig.time += EXPIRES_SECONDS
    await rig.fails("InvalidStateTransition", "AcceptVpcPeeringConnection", VpcPeeringConnectionId=id)


async def test_overlapping_networks_fail(rig: Any) -> None:
    await other(rig, "172.31.128.0/17")
    answer = await rig.call("CreateVpcPeeringConnection", VpcId=await mine(rig), PeerVpcId=OTHER)
    made = answer["VpcPeeringConnection"]
    assert made["Status"]["Code"] == "failed"
    assert "overlapping" in made["Status"]["Message"]
    assert made["Tags"] == []
    id = made["VpcPeeringConnectionId"]
    await rig.fails("InvalidStateTransition", "DeleteVpcPeeringConnection", VpcPeeringConnectionId=id)


async def test_what_cannot_be_peered(rig: Any) -> None:
    vpc = await mine(rig)
    operation = "CreateVpcPeeringConnection"
    await rig.fails("InvalidVpcID.NotFound", operation, VpcId=vpc, PeerVpcId=OTHER)
    await rig.fails("InvalidParameterValue", operation, VpcId=vpc, PeerVpcId=vpc)
    await rig.fails("MissingParameter", operation, VpcId=vpc)
    await rig.fails("UnsupportedOperation", operation, VpcId=vpc, PeerVpcId=OTHER, PeerRegion="eu-west-1")


async def test_only_whom_it_is_offered_to_accepts(rig: Any) -> None:
    id = await offer(rig)
    [record] = await rig.find(PeeringConnection)
    await rig.put(replace(record, accepter_account="210987654321"))
    await rig.fails("OperationNotPermitted", "AcceptVpcPeeringConnection", VpcPeeringConnectionId=id)


async def test_both_accounts_see_it_and_nobody_else(rig: Any) -> None:
    id = await offer(rig)
    await rig.call("CreateTags", Resources=[id], Tags=[{"Key": "mine", "Value": "1"}])
    [record] = await rig.find(PeeringConnection)
    theirs = replace(record, requester_account="210987654321", account="210987654321")
    await rig.put(theirs)
    [shown] = (await rig.call("DescribeVpcPeeringConnections"))["VpcPeeringConnections"]
    assert (shown["VpcPeeringConnectionId"], shown.get("Tags") or []) == (id, [])
    assert await status(rig, id) == "pending-acceptance"
    await rig.fails("UnauthorizedOperation", "CreateTags", Resources=[id], Tags=[{"Key": "a", "Value": "b"}])
    await rig.call("AcceptVpcPeeringConnection", VpcPeeringConnectionId=id)
    [record] = await rig.find(PeeringConnection)
    await rig.put(replace(record, accepter_account="310987654321"))
    assert (await rig.call("DescribeVpcPeeringConnections"))["VpcPeeringConnections"] == []
    await rig.fails(
        "InvalidVpcPeeringConnectionID.NotFound",
        "DescribeVpcPeeringConnections",
        VpcPeeringConnectionIds=[id],
    )


async def test_what_failed_was_offered_to_nobody(rig: Any) -> None:
    await other(rig, "172.31.128.0/20")
    await rig.call("CreateVpcPeeringConnection", VpcId=await mine(rig), PeerVpcId=OTHER)
    [record] = await rig.find(PeeringConnection)
    assert record.state is PeeringState.failed
    await rig.put(replace(record, requester_account="210987654321", account="210987654321"))
    assert (await rig.call("DescribeVpcPeeringConnections"))["VpcPeeringConnections"] == []


async def test_options_that_are_not_there_are_refused(rig: Any) -> None:
    id = await offer(rig)
    operation = "ModifyVpcPeeringConnectionOptions"
    on, off = ({"AllowDnsResolutionFromRemoteVpc": value} for value in (True, False))
    await rig.call("AcceptVpcPeeringConnection", VpcPeeringConnectionId=id)
    await rig.fails(
        "UnsupportedOperation",
        operation,
        VpcPeeringConnectionId=id,
        RequesterPeeringConnectionOptions=on,
    )
    answer = await rig.call(operation, VpcPeeringConnectionId=id, RequesterPeeringConnectionOptions=off)
    assert answer == {"RequesterPeeringConnectionOptions": off}


async def test_connections_are_found_by_their_vpcs(rig: Any) -> None:
    id = await offer(rig)
    for name, value in (
        ("accepter-vpc-info.vpc-id", OTHER),
        ("requester-vpc-info.vpc-id", await mine(rig)),
        ("status-code", str(PeeringState.pending_acceptance)),
        ("requester-vpc-info.cidr-block", "172.31.0.0/16"),
    ):
        found = await rig.call("DescribeVpcPeeringConnections", Filters=[{"Name": name, "Values": [value]}])
        assert [each["VpcPeeringConnectionId"] for each in found["VpcPeeringConnections"]] == [id], name
