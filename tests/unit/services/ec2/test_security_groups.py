from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gureum.resources import SecurityGroup, Vpc
from gureum.services.ec2 import limits

if TYPE_CHECKING:
    from ..conftest import Rig

NOBODY = "sg-0123456789abcdef0"
WEB = {"GroupName": "web", "Description": "web servers"}


async def created(rig: Rig, name: str = "web") -> str:
    id: str = (await rig.call("CreateSecurityGroup", GroupName=name, Description=name))["GroupId"]
    return id


async def default(rig: Rig) -> SecurityGroup:
    return (await rig.find(SecurityGroup, name="default"))[0]


async def test_create(rig: Rig) -> None:
    tags = [{"ResourceType": "security-group", "Tags": [{"Key": "a", "Value": "b"}]}]
    answer = await rig.call("CreateSecurityGroup", **WEB, TagSpecifications=tags)
    group = await rig.get(SecurityGroup, answer["GroupId"])
    assert (group.name, group.description, group.tags) == ("web", "web servers", {"a": "b"})
    assert group.vpc == (await rig.find(Vpc))[0].id
    [rule] = group.rules
    assert (rule.egress, rule.protocol, rule.cidr) == (True, "-1", "0.0.0.0/0")
    assert answer["SecurityGroupArn"].endswith(f":123456789012:security-group/{group.id}")


@pytest.mark.parametrize(
    ("code", "input"),
    [
        ("InvalidParameterValue", {"GroupName": "default"}),
        ("InvalidParameterValue", {"GroupName": "sg-web"}),
        ("MissingParameter", {"GroupName": ""}),
        ("MissingParameter", {"Description": ""}),
        ("InvalidParameterValue", {"GroupName": "x" * 256}),
        ("InvalidParameterValue", {"Description": "größer"}),
        ("InvalidVpcID.NotFound", {"VpcId": "vpc-0123456789abcdef0"}),
    ],
)
async def test_create_refuses(rig: Rig, code: str, input: dict[str, str]) -> None:
    await rig.fails(code, "CreateSecurityGroup", **{**WEB, **input})


async def test_names_are_unique_in_a_vpc(rig: Rig) -> None:
    await created(rig)
    message = await rig.fails("InvalidGroup.Duplicate", "CreateSecurityGroup", **WEB)
    vpc = (await rig.find(Vpc))[0]
    assert message == f"The security group 'web' already exists for VPC '{vpc.id}'"
    await rig.put(Vpc(id="vpc-00000000000000009", account=vpc.account, cidr="10.0.0.0/16", network_id=9))
    await rig.call("CreateSecurityGroup", **WEB, VpcId="vpc-00000000000000009")


async def test_a_group_of_a_vpc_with_ipv6_lets_that_out_too(rig: Rig) -> None:
    answer = await rig.call("CreateVpc", CidrBlock="10.0.0.0/16", AmazonProvidedIpv6CidrBlock=True)
    made = await rig.call(
        "CreateSecurityGroup", GroupName="six", Description="x", VpcId=answer["Vpc"]["VpcId"]
    )
    group = await rig.get(SecurityGroup, made["GroupId"])
    assert [(rule.cidr, rule.cidr6) for rule in group.rules] == [("0.0.0.0/0", ""), ("", "::/0")]


async def test_create_without_a_default_vpc(empty: Rig) -> None:
    await empty.fails("VPCIdNotSpecified", "CreateSecurityGroup", **WEB)


async def test_describe_the_default_group(rig: Rig) -> None:
    group = await default(rig)
    [shown] = (await rig.call("DescribeSecurityGroups"))["SecurityGroups"]
    assert shown["GroupId"] == group.id
    assert shown["Description"] == "default VPC security group"
    [ingress] = shown["IpPermissions"]
    assert ingress["IpProtocol"] == "-1"
    assert ingress["UserIdGroupPairs"] == [{"GroupId": group.id, "UserId": "123456789012"}]
    assert ingress["IpRanges"] == []
    assert "FromPort" not in ingress
    [egress] = shown["IpPermissionsEgress"]
    assert egress["IpRanges"] == [{"CidrIp": "0.0.0.0/0"}]


async def test_describe_by_id_and_name(rig: Rig) -> None:
    one, two = await created(rig, "one"), await created(rig, "two")

    async def found(**input: Any) -> list[str]:
        return [g["GroupId"] for g in (await rig.call("DescribeSecurityGroups", **input))["SecurityGroups"]]

    assert await found(GroupIds=[two, one]) == [two, one]
    assert await found(GroupNames=["one"]) == [one]
    assert await found(GroupIds=[two], GroupNames=["one"]) == [two, one]
    assert await found(Filters=[{"Name": "group-name", "Values": ["t*"]}]) == [two]
    assert len(await found(Filters=[{"Name": "vpc-id", "Values": [(await rig.find(Vpc))[0].id]}])) == 3
    await rig.fails("InvalidGroup.NotFound", "DescribeSecurityGroups", GroupIds=[NOBODY])
    await rig.fails("InvalidGroup.NotFound", "DescribeSecurityGroups", GroupNames=["three"])
    await rig.fails("InvalidGroupId.Malformed", "DescribeSecurityGroups", GroupIds=["one"])


async def test_describe_by_rules(rig: Rig) -> None:
    id = await created(rig)
    permissions = [
        {
            "IpProtocol": "tcp",
            "FromPort": 22,
            "ToPort": 23,
            "IpRanges": [{"CidrIp": "10.0.0.0/8"}],
            "Ipv6Ranges": [{"CidrIpv6": "::/0"}],
        }
    ]
    await rig.call("AuthorizeSecurityGroupIngress", GroupId=id, IpPermissions=permissions)
    for name, value in {
        "ip-permission.cidr": "10.0.0.0/8",
        "ip-permission.ipv6-cidr": "::/0",
        "ip-permission.from-port": "22",
        "ip-permission.to-port": "23",
        "ip-permission.protocol": "tcp",
    }.items():
        answer = await rig.call("DescribeSecurityGroups", Filters=[{"Name": name, "Values": [value]}])
        assert [group["GroupId"] for group in answer["SecurityGroups"]] == [id], name
        answer = await rig.call(
            "DescribeSecurityGroups", Filters=[{"Name": f"egress.{name}", "Values": [value]}]
        )
        assert answer["SecurityGroups"] == []


async def test_delete(rig: Rig) -> None:
    id = await created(rig)
    assert await rig.call("DeleteSecurityGroup", GroupId=id) == {"Return": True, "GroupId": id}
    await rig.fails("InvalidGroup.NotFound", "DeleteSecurityGroup", GroupId=id)
    await created(rig)
    await rig.call("DeleteSecurityGroup", GroupName="web")
    await rig.fails("InvalidGroup.NotFound", "DeleteSecurityGroup", GroupName="web")
    await rig.fails("MissingParameter", "DeleteSecurityGroup")


async def test_the_default_group_stays(rig: Rig) -> None:
    await rig.fails("CannotDelete", "DeleteSecurityGroup", GroupId=(await default(rig)).id)


async def test_delete_in_use(rig: Rig) -> None:
    used, named, naming = await created(rig, "a"), await created(rig, "b"), await created(rig, "c")
    await rig.launch(SecurityGroupIds=[used])
    pair = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": named}]}
    await rig.call("AuthorizeSecurityGroupIngress", GroupId=naming, IpPermissions=[pair])
    message = await rig.fails("DependencyViolation", "DeleteSecurityGroup", GroupId=used)
    assert message == f"resource {used} has a dependent object"
    await rig.fails("DependencyViolation", "DeleteSecurityGroup", GroupId=named)
    await rig.call("DeleteSecurityGroup", GroupId=naming)
    await rig.call("AuthorizeSecurityGroupIngress", GroupId=named, IpPermissions=[pair])
    await rig.call("DeleteSecurityGroup", GroupId=named)


async def test_limit(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "GROUPS_PER_VPC_MAX", 2)
    await created(rig)
    await rig.fails("SecurityGroupLimitExceeded", "CreateSecurityGroup", GroupName="x", Description="x")
