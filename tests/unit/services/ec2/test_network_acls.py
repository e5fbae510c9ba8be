from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from gureum.resources import NetworkAcl, Subnet, Vpc

ENTRY: dict[str, Any] = {
    "RuleNumber": 100,
    "Protocol": "6",
    "RuleAction": "allow",
    "Egress": False,
    "CidrBlock": "10.0.0.0/8",
    "PortRange": {"From": 80, "To": 81},
}


async def make(rig: Any) -> str:
    vpc = (await rig.find(Vpc))[0]
    return (await rig.call("CreateNetworkAcl", VpcId=vpc.id))["NetworkAcl"]["NetworkAclId"]  # type: ignore[no-any-return]


async def shown(rig: Any, id: str) -> dict[str, Any]:
    [acl] = (await rig.call("DescribeNetworkAcls", NetworkAclIds=[id]))["NetworkAcls"]
    return acl  # type: ignore[no-any-return]


async def test_a_new_acl_denies_everything(rig: Any) -> None:
    acl = await shown(rig, await make(rig))
    assert (acl["IsDefault"], acl["Associations"], acl["Tags"]) == (False, [], [])
    assert [(each["RuleNumber"], each["RuleAction"], each["Egress"]) for each in acl["Entries"]] == [
        (32767, "deny", False),
        (32767, "deny", True),
    ]


async def test_entries_are_kept_in_order(rig: Any) -> None:
    id = await make(rig)
    await rig.call("CreateNetworkAclEntry", NetworkAclId=id, **ENTRY)
    first = {**ENTRY, "RuleNumber": 10, "Protocol": "icmp", "IcmpTypeCode": {"Type": 8, "Code": -1}}
    del first["PortRange"]
    await rig.call("CreateNetworkAclEntry", NetworkAclId=id, **first)
    both = {**ENTRY, "Egress": True, "Protocol": "-1", "Ipv6CidrBlock": "::/0"}
    del both["CidrBlock"]
    await rig.call("CreateNetworkAclEntry", NetworkAclId=id, **both)
    entries = (await shown(rig, id))["Entries"]
    assert entries[:3] == [
        {
            "RuleNumber": 10,
            "Egress": False,
            "Protocol": "1",
            "RuleAction": "allow",
            "CidrBlock": "10.0.0.0/8",
            "IcmpTypeCode": {"Type": 8, "Code": -1},
        },
        {
            "RuleNumber": 100,
            "Egress": False,
            "Protocol": "6",
            "RuleAction": "allow",
            "CidrBlock": "10.0.0.0/8",
            "PortRange": {"From": 80, "To": 81},
        },
        {
            "RuleNumber": 100,
            "Egress": True,
            "Protocol": "-1",
            "RuleAction": "allow",
            "Ipv6CidrBlock": "::/0",
        },
    ]
    assert len(entries) == 7


async def test_entries_are_replaced_and_deleted_by_number(rig: Any) -> None:
    id = await make(rig)
    await rig.call("CreateNetworkAclEntry", NetworkAclId=id, **ENTRY)
    await rig.fails("NetworkAclEntryAlreadyExists", "CreateNetworkAclEntry", NetworkAclId=id, **ENTRY)
    await rig.call("ReplaceNetworkAclEntry", NetworkAclId=id, **{**ENTRY, "RuleAction": "deny"})
    assert (await shown(rig, id))["Entries"][0]["RuleAction"] == "deny"
    other = {**ENTRY, "RuleNumber": 7}
    await rig.fails("InvalidNetworkAclEntry.NotFound", "ReplaceNetworkAclEntry", NetworkAclId=id, **other)
    await rig.call("DeleteNetworkAclEntry", NetworkAclId=id, RuleNumber=100, Egress=False)
    await rig.fails(
        "InvalidNetworkAclEntry.NotFound",
        "DeleteNetworkAclEntry",
        NetworkAclId=id,
        RuleNumber=100,
        Egress=False,
    )


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"RuleNumber": 0}, "InvalidParameterValue"),
        ({"RuleNumber": 32767}, "InvalidParameterValue"),
        ({"CidrBlock": "10.0.0.0"}, "InvalidParameterValue"),
        ({"CidrBlock": "::/0"}, "InvalidParameterValue"),
        ({"CidrBlock": None}, "MissingParameter"),
        ({"Ipv6CidrBlock": "::/0"}, "InvalidParameterCombination"),
        ({"Protocol": "256"}, "InvalidParameterValue"),
        ({"Protocol": "nothing"}, "InvalidParameterValue"),
        ({"PortRange": None}, "MissingParameter"),
        ({"PortRange": {"From": 9, "To": 8}}, "InvalidParameterValue"),
        ({"PortRange": {"From": 9, "To": 65536}}, "InvalidParameterValue"),
        ({"Protocol": "1", "PortRange": None}, "MissingParameter"),
        ({"Protocol": "1", "IcmpTypeCode": {"Type": -1, "Code": 3}}, "InvalidParameterValue"),
        ({"Protocol": "1", "IcmpTypeCode": {"Type": 300}}, "InvalidParameterValue"),
    ],
)
async def test_wrong_entries(rig: Any, change: dict[str, Any], code: str) -> None:
    id = await make(rig)
    given = {name: value for name, value in {**ENTRY, **change}.items() if value is not None}
    await rig.fails(code, "CreateNetworkAclEntry", NetworkAclId=id, **given)


async def test_a_subnet_gets_another_acl(rig: Any) -> None:
    id = await make(rig)
    subnet = replace((await rig.find(Subnet))[0], acl="acl-old", acl_association="aclassoc-1")
    await rig.put(subnet)
    answer = await rig.call("ReplaceNetworkAclAssociation", AssociationId="aclassoc-1", NetworkAclId=id)
    [association] = (await shown(rig, id))["Associations"]
    assert association == {
        "NetworkAclAssociationId": answer["NewAssociationId"],
        "NetworkAclId": id,
        "SubnetId": subnet.id,
    }
    await rig.fails("DependencyViolation", "DeleteNetworkAcl", NetworkAclId=id)
    await rig.fails(
        "InvalidAssociationID.NotFound",
        "ReplaceNetworkAclAssociation",
        AssociationId="aclassoc-1",
        NetworkAclId=id,
    )
    found = await rig.call(
        "DescribeNetworkAcls", Filters=[{"Name": "association.subnet-id", "Values": [subnet.id]}]
    )
    assert [each["NetworkAclId"] for each in found["NetworkAcls"]] == [id]


async def test_acls_are_deleted_unless_they_are_the_default(rig: Any) -> None:
    id = await make(rig)
    await rig.call("DeleteNetworkAcl", NetworkAclId=id)
    await rig.fails("InvalidNetworkAclID.NotFound", "DeleteNetworkAcl", NetworkAclId=id)
    default = "acl-0123456789abcdef0"
    vpc = (await rig.find(Vpc))[0]
    await rig.put(NetworkAcl(id=default, account=rig.caller.account, vpc=vpc.id, default=True))
    await rig.fails("InvalidParameterValue", "DeleteNetworkAcl", NetworkAclId=default)


@pytest.mark.parametrize(
    "cidr", ["fd00::%eth0/64", "fd00::%x; flush ruleset/64", "fd00::%x\nflush ruleset/64"]
)
async def test_a_network_with_a_zone_is_none(rig: Any, cidr: str) -> None:
    """What follows the percent sign may be anything, and would come before the hosts' nft."""
    entry = {**ENTRY, "NetworkAclId": await make(rig), "Ipv6CidrBlock": cidr}
    del entry["CidrBlock"]
    await rig.fails("InvalidParameterValue", "CreateNetworkAclEntry", **entry)
