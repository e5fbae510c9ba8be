from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gureum.resources import SecurityGroup, Vpc
from gureum.services.ec2 import limits

if TYPE_CHECKING:
    from ..conftest import Rig

SSH = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}


@pytest.fixture
async def group(rig: Rig) -> str:
    id: str = (await rig.call("CreateSecurityGroup", GroupName="web", Description="web"))["GroupId"]
    return id


async def rules(rig: Rig, group: str, *, egress: bool = False) -> list[dict[str, Any]]:
    filters = [{"Name": "group-id", "Values": [group]}]
    found = (await rig.call("DescribeSecurityGroupRules", Filters=filters))["SecurityGroupRules"]
    return [rule for rule in found if rule["IsEgress"] is egress]


async def test_authorize(rig: Rig, group: str) -> None:
    tags = [{"ResourceType": "security-group-rule", "Tags": [{"Key": "a", "Value": "b"}]}]
    answer = await rig.call(
        "AuthorizeSecurityGroupIngress", GroupId=group, IpPermissions=[SSH], TagSpecifications=tags
    )
    [shown] = answer["SecurityGroupRules"]
    assert answer["Return"]
    assert (shown["IpProtocol"], shown["FromPort"], shown["ToPort"]) == ("tcp", 22, 22)
    assert (shown["CidrIpv4"], shown["IsEgress"], shown["GroupId"]) == ("0.0.0.0/0", False, group)
    assert shown["Tags"] == [{"Key": "a", "Value": "b"}]
    assert await rules(rig, group) == [shown]


async def test_one_rule_for_each_peer(rig: Rig, group: str) -> None:
    permission = {
        "IpProtocol": "6",
        "FromPort": 80,
        "ToPort": 443,
        "IpRanges": [{"CidrIp": "10.1.2.3/8", "Description": "inside"}, {"CidrIp": "192.168.0.0/16"}],
        "Ipv6Ranges": [{"CidrIpv6": "::/0"}],
        "UserIdGroupPairs": [{"GroupId": group, "Description": "itself"}],
    }
    await rig.call("AuthorizeSecurityGroupIngress", GroupId=group, IpPermissions=[permission])
    found = (await rig.get(SecurityGroup, group)).rules[1:]
    assert [rule.cidr or rule.cidr6 or rule.group for rule in found] == [
        "10.0.0.0/8",
        "192.168.0.0/16",
        "::/0",
        group,
    ]
    assert len({rule.id for rule in found}) == 4
    [shown] = (await rig.call("DescribeSecurityGroups", GroupIds=[group]))["SecurityGroups"]
    [merged] = shown["IpPermissions"]
    assert (merged["IpProtocol"], merged["FromPort"], merged["ToPort"]) == ("tcp", 80, 443)
    assert merged["IpRanges"][0] == {"CidrIp": "10.0.0.0/8", "Description": "inside"}
    assert merged["Ipv6Ranges"] == [{"CidrIpv6": "::/0"}]
    [pair] = merged["UserIdGroupPairs"]
    assert (pair["GroupId"], pair["UserId"]) == (group, "123456789012")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"IpProtocol": "-1"}, ("-1", -1, -1)),
        ({"IpProtocol": "all", "FromPort": 1, "ToPort": 2}, ("-1", -1, -1)),
        ({"IpProtocol": "UDP", "FromPort": 53, "ToPort": 53}, ("udp", 53, 53)),
        ({"IpProtocol": "tcp", "FromPort": 0, "ToPort": 65535}, ("tcp", 0, 65535)),
        ({"IpProtocol": "icmp"}, ("icmp", -1, -1)),
        ({"IpProtocol": "icmp", "FromPort": 8, "ToPort": -1}, ("icmp", 8, -1)),
        ({"IpProtocol": "1", "FromPort": 3, "ToPort": 4}, ("icmp", 3, 4)),
        ({"IpProtocol": "50"}, ("50", -1, -1)),
    ],
)
async def test_traffic(rig: Rig, group: str, given: dict[str, Any], kept: tuple[str, int, int]) -> None:
    permission = {**given, "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}
    await rig.call("AuthorizeSecurityGroupIngress", GroupId=group, IpPermissions=[permission])
    rule = (await rig.get(SecurityGroup, group)).rules[-1]
    assert (rule.protocol, rule.from_port, rule.to_port) == kept


TCP = {"IpProtocol": "tcp", "FromPort": 1, "ToPort": 2}


@pytest.mark.parametrize(
    ("code", "permission"),
    [
        ("InvalidParameterValue", {**SSH, "FromPort": 70000}),
        ("InvalidParameterValue", {**SSH, "FromPort": -5}),
        ("InvalidParameterValue", {**SSH, "FromPort": 23}),
        ("InvalidParameterValue", {"IpProtocol": "tcp", "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}),
        ("InvalidParameterValue", {**SSH, "IpProtocol": "quic"}),
        ("InvalidParameterValue", {**SSH, "IpProtocol": "256"}),
        ("InvalidParameterValue", {**SSH, "IpProtocol": "icmp", "FromPort": 256}),
        ("InvalidParameterValue", {**TCP, "IpRanges": [{"CidrIp": "10.0.0.1"}]}),
        ("InvalidParameterValue", {**TCP, "IpRanges": [{"CidrIp": "10.0.0.0/33"}]}),
        ("InvalidParameterValue", {**TCP, "Ipv6Ranges": [{"CidrIpv6": "10.0.0.0/8"}]}),
        ("InvalidParameterValue", {**TCP, "Ipv6Ranges": [{"CidrIpv6": "fd00::%x; flush ruleset/64"}]}),
        ("InvalidParameterValue", {**TCP, "IpRanges": [{"CidrIp": "10.0.0.0/8", "Description": "<b>"}]}),
        (
            "InvalidPrefixListID.NotFound",
            {**TCP, "PrefixListIds": [{"PrefixListId": "pl-0123456789abcdef0"}]},
        ),
        ("InvalidGroup.NotFound", {**TCP, "UserIdGroupPairs": [{"GroupId": "sg-00000001"}]}),
        ("InvalidGroup.NotFound", {**TCP, "UserIdGroupPairs": [{"GroupName": "db"}]}),
        (
            "InvalidVpcPeeringConnectionID.NotFound",
            {
                **TCP,
                "UserIdGroupPairs": [{"GroupId": "sg-1", "VpcPeeringConnectionId": "pcx-0123456789abcdef0"}],
            },
        ),
        ("MissingParameter", {**TCP}),
        ("MissingParameter", {**TCP, "UserIdGroupPairs": [{}]}),
        ("InvalidParameterValue", {"IpRanges": [{"CidrIp": "10.0.0.0/8"}]}),
    ],
)
async def test_authorize_refuses(rig: Rig, group: str, code: str, permission: dict[str, Any]) -> None:
    await rig.fails(code, "AuthorizeSecurityGroupIngress", GroupId=group, IpPermissions=[permission])


async def test_authorize_needs_a_group_and_rules(rig: Rig, group: str) -> None:
    await rig.fails("MissingParameter", "AuthorizeSecurityGroupIngress", IpPermissions=[SSH])
    await rig.fails("MissingParameter", "AuthorizeSecurityGroupIngress", GroupId=group)
    await rig.fails(
        "InvalidParameterCombination",
        "AuthorizeSecurityGroupIngress",
        GroupId=group,
        IpPermissions=[SSH],
        CidrIp="10.0.0.0/8",
    )


async def test_duplicates(rig: Rig, group: str) -> None:
    await rig.call("AuthorizeSecurityGroupIngress", GroupId=group, IpPermissions=[SSH])
    message = await rig.fails(
        "InvalidPermission.Duplicate", "AuthorizeSecurityGroupIngress", GroupId=group, IpPermissions=[SSH]
    )
    assert message == (
        'the specified rule "peer: 0.0.0.0/0, TCP, from port: 22, to port: 22, ALLOW" already exists'
    )
    other = {**SSH, "FromPort": 1}
    await rig.fails(
        "InvalidParameterValue",
        "AuthorizeSecurityGroupIngress",
        GroupId=group,
        IpPermissions=[other, other],
    )


async def test_older_parameters(rig: Rig, group: str) -> None:
    await rig.call(
        "AuthorizeSecurityGroupIngress",
        GroupName="web",
        IpProtocol="tcp",
        FromPort=22,
        ToPort=22,
        CidrIp="10.0.0.0/8",
    )
    await rig.call("AuthorizeSecurityGroupIngress", GroupId=group, SourceSecurityGroupName="default")
    cidr, peer = (await rig.get(SecurityGroup, group)).rules[1:]
    assert (cidr.protocol, cidr.from_port, cidr.cidr) == ("tcp", 22, "10.0.0.0/8")
    [default] = await rig.find(SecurityGroup, name="default")
    assert (peer.protocol, peer.group) == ("-1", default.id)
    await rig.call(
        "RevokeSecurityGroupIngress",
        GroupId=group,
        IpProtocol="tcp",
        FromPort=22,
        ToPort=22,
        CidrIp="10.0.0.0/8",
    )
    assert len(await rules(rig, group)) == 1


async def test_egress(rig: Rig, group: str) -> None:
    await rig.call("AuthorizeSecurityGroupEgress", GroupId=group, IpPermissions=[SSH])
    assert len(await rules(rig, group, egress=True)) == 2
    assert await rules(rig, group) == []
    everything = {"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    answer = await rig.call("RevokeSecurityGroupEgress", GroupId=group, IpPermissions=[everything])
    [revoked] = answer["RevokedSecurityGroupRules"]
    assert (revoked["IpProtocol"], revoked["IsEgress"]) == ("-1", True)
    [left] = await rules(rig, group, egress=True)
    assert left["FromPort"] == 22


async def test_group_of_another_vpc(rig: Rig, group: str) -> None:
    await rig.put(
        Vpc(id="vpc-00000000000000009", account="123456789012", cidr="10.0.0.0/16", network_id=9),
    )
    far = await rig.call(
        "CreateSecurityGroup", GroupName="far", Description="far", VpcId="vpc-00000000000000009"
    )
    pair = {**TCP, "UserIdGroupPairs": [{"GroupId": far["GroupId"]}]}
    await rig.fails(
        "InvalidGroup.NotFound", "AuthorizeSecurityGroupIngress", GroupId=group, IpPermissions=[pair]
    )


async def test_revoke_by_id(rig: Rig, group: str) -> None:
    answer = await rig.call("AuthorizeSecurityGroupIngress", GroupId=group, IpPermissions=[SSH])
    id = answer["SecurityGroupRules"][0]["SecurityGroupRuleId"]
    unknown = "sgr-0123456789abcdef0"
    message = await rig.fails(
        "InvalidSecurityGroupRuleId.NotFound",
        "RevokeSecurityGroupIngress",
        GroupId=group,
        SecurityGroupRuleIds=[id, unknown],
    )
    assert message == f"The security group rule ID '{unknown}' does not exist"
    await rig.fails(
        "InvalidSecurityGroupRuleId.NotFound",
        "RevokeSecurityGroupEgress",
        GroupId=group,
        SecurityGroupRuleIds=[id],
    )
    await rig.fails(
        "InvalidParameterCombination",
        "RevokeSecurityGroupIngress",
        GroupId=group,
        SecurityGroupRuleIds=[id],
        IpPermissions=[SSH],
    )
    answer = await rig.call("RevokeSecurityGroupIngress", GroupId=group, SecurityGroupRuleIds=[id])
    assert [rule["SecurityGroupRuleId"] for rule in answer["RevokedSecurityGroupRules"]] == [id]
    assert await rules(rig, group) == []


async def test_revoke_what_is_not_there(rig: Rig, group: str) -> None:
    message = await rig.fails(
        "InvalidPermission.NotFound", "RevokeSecurityGroupIngress", GroupId=group, IpPermissions=[SSH]
    )
    assert message == "The specified rule does not exist in this security group."


async def test_describe(rig: Rig, group: str) -> None:
    tags = [{"ResourceType": "security-group-rule", "Tags": [{"Key": "for", "Value": "ssh"}]}]
    await rig.call(
        "AuthorizeSecurityGroupIngress", GroupId=group, IpPermissions=[SSH], TagSpecifications=tags
    )
    [ssh] = await rules(rig, group)
    everything = (await rig.call("DescribeSecurityGroupRules"))["SecurityGroupRules"]
    assert len(everything) == 4
    tagged = [{"Name": "tag:for", "Values": ["ssh"]}]
    assert (await rig.call("DescribeSecurityGroupRules", Filters=tagged))["SecurityGroupRules"] == [ssh]
    by_id = {"SecurityGroupRuleIds": [ssh["SecurityGroupRuleId"]]}
    assert (await rig.call("DescribeSecurityGroupRules", **by_id))["SecurityGroupRules"] == [ssh]
    await rig.fails(
        "InvalidSecurityGroupRuleId.NotFound",
        "DescribeSecurityGroupRules",
        SecurityGroupRuleIds=["sgr-0123456789abcdef0"],
    )
    await rig.fails(
        "InvalidParameterValue", "DescribeSecurityGroupRules", Filters=[{"Name": "x", "Values": ["y"]}]
    )
    of_no_group = [{"Name": "group-id", "Values": ["foobar"]}]
    await rig.fails("InvalidGroupId.Malformed", "DescribeSecurityGroupRules", Filters=of_no_group)
    for values, count in ((["sg-0123456789abcdef0"], 0), (["*"], 4)):
        some = [{"Name": "group-id", "Values": values}]
        found = await rig.call("DescribeSecurityGroupRules", Filters=some)
        assert len(found["SecurityGroupRules"]) == count


async def test_describe_by_pages(rig: Rig, group: str) -> None:
    many = [{**SSH, "FromPort": port} for port in range(8)]
    await rig.call("AuthorizeSecurityGroupIngress", GroupId=group, IpPermissions=many)
    seen: list[str] = []
    answer: dict[str, Any] = {"NextToken": None}
    while "NextToken" in answer:
        more = {"NextToken": answer["NextToken"]} if answer["NextToken"] else {}
        answer = await rig.call("DescribeSecurityGroupRules", MaxResults=5, **more)
        seen += [rule["SecurityGroupRuleId"] for rule in answer["SecurityGroupRules"]]
    assert len(seen) == len(set(seen)) == 11


async def test_modify(rig: Rig, group: str) -> None:
    await rig.call("AuthorizeSecurityGroupIngress", GroupId=group, IpPermissions=[SSH])
    [before] = await rules(rig, group)
    id = before["SecurityGroupRuleId"]

    def update(**rule: Any) -> dict[str, Any]:
        base = {"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443}
        return {
            "GroupId": group,
            "SecurityGroupRules": [{"SecurityGroupRuleId": id, "SecurityGroupRule": {**base, **rule}}],
        }

    answer = await rig.call("ModifySecurityGroupRules", **update(CidrIpv4="10.0.0.0/8", Description="tls"))
    assert answer == {"Return": True}
    [after] = await rules(rig, group)
    assert after["SecurityGroupRuleId"] == id
    assert (after["FromPort"], after["CidrIpv4"], after["Description"]) == (443, "10.0.0.0/8", "tls")
    await rig.call("ModifySecurityGroupRules", **update(ReferencedGroupId=group))
    [after] = await rules(rig, group)
    assert after["ReferencedGroupInfo"]["GroupId"] == group
    both = update(CidrIpv4="10.0.0.0/8", CidrIpv6="::/0")
    await rig.fails("InvalidParameterCombination", "ModifySecurityGroupRules", **both)
    await rig.fails("MissingParameter", "ModifySecurityGroupRules", **update())
    no_protocol = update(CidrIpv4="10.0.0.0/8")
    del no_protocol["SecurityGroupRules"][0]["SecurityGroupRule"]["IpProtocol"]
    message = await rig.fails("InvalidParameterValue", "ModifySecurityGroupRules", **no_protocol)
    assert message.startswith("Invalid value 'null' for protocol.")
    await rig.fails(
        "InvalidPrefixListID.NotFound",
        "ModifySecurityGroupRules",
        **update(PrefixListId="pl-0123456789abcdef0"),
    )
    await rig.call("AuthorizeSecurityGroupIngress", GroupId=group, IpPermissions=[SSH])
    same = update(CidrIpv4="0.0.0.0/0", FromPort=22, ToPort=22)
    await rig.fails("InvalidPermission.Duplicate", "ModifySecurityGroupRules", **same)
    unknown = [{"SecurityGroupRuleId": "sgr-00000001", "SecurityGroupRule": {}}]
    await rig.fails(
        "InvalidSecurityGroupRuleId.NotFound",
        "ModifySecurityGroupRules",
        GroupId=group,
        SecurityGroupRules=unknown,
    )


@pytest.mark.parametrize("direction", ["Ingress", "Egress"])
async def test_update_descriptions(rig: Rig, group: str, direction: str) -> None:
    operation = f"UpdateSecurityGroupRuleDescriptions{direction}"
    await rig.call(f"AuthorizeSecurityGroup{direction}", GroupId=group, IpPermissions=[SSH])
    described = {**SSH, "IpRanges": [{"CidrIp": "0.0.0.0/0", "Description": "by rule"}]}
    await rig.call(operation, GroupId=group, IpPermissions=[described])
    rule = (await rig.get(SecurityGroup, group)).rules[-1]
    assert rule.description == "by rule"
    by_id = [{"SecurityGroupRuleId": rule.id, "Description": "by id"}]
    await rig.call(operation, GroupId=group, SecurityGroupRuleDescriptions=by_id)
    assert (await rig.get(SecurityGroup, group)).rules[-1].description == "by id"
    await rig.fails("MissingParameter", operation, GroupId=group)
    other = {**SSH, "FromPort": 1}
    await rig.fails("InvalidPermission.NotFound", operation, GroupId=group, IpPermissions=[other])


async def test_limit(rig: Rig, group: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RULES_PER_GROUP_MAX", 2)
    many = [{**SSH, "FromPort": port} for port in range(3)]
    await rig.fails(
        "RulesPerSecurityGroupLimitExceeded",
        "AuthorizeSecurityGroupIngress",
        GroupId=group,
        IpPermissions=many,
    )
