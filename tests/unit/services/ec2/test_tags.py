from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from botocore.loaders import Loader

from gureum.resources import (
    DhcpOptions,
    Instance,
    NetworkAcl,
    PrefixList,
    RouteTable,
    SecurityGroup,
    Subnet,
    Vpc,
)
from gureum.services.ec2 import lookup, tags

if TYPE_CHECKING:
    from ..conftest import Rig


def pairs(**tags: str) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]


async def described(rig: Rig, **input: Any) -> list[tuple[str, str, str, str]]:
    answer = await rig.call("DescribeTags", **input)
    return [(t["ResourceType"], t["ResourceId"], t["Key"], t["Value"]) for t in answer["Tags"]]


async def test_create_and_replace(rig: Rig) -> None:
    id = await rig.running()
    assert await rig.call("CreateTags", Resources=[id], Tags=pairs(a="1", b="2")) == {}
    await rig.call("CreateTags", Resources=[id], Tags=pairs(b="3", c=""))
    assert (await rig.get(Instance, id)).tags == {"a": "1", "b": "3", "c": ""}


async def test_every_kind_of_resource(rig: Rig) -> None:
    instance = await rig.get(Instance, await rig.running())
    volume = instance.devices[0].volume
    group = (await rig.find(SecurityGroup))[0]
    kinds = {
        "instance": instance.id,
        "volume": volume,
        "snapshot": await rig.snapshot(volume),
        "image": instance.image,
        "network-interface": instance.interfaces[0],
        "security-group": group.id,
        "security-group-rule": group.rules[0].id,
        "subnet": (await rig.find(Subnet))[0].id,
        "vpc": (await rig.find(Vpc))[0].id,
        "elastic-ip": (await rig.call("AllocateAddress"))["AllocationId"],
        "key-pair": (await rig.call("CreateKeyPair", KeyName="me", KeyType="ed25519"))["KeyPairId"],
    }
    await rig.call("CreateTags", Resources=list(kinds.values()), Tags=pairs(x="y"))
    assert await described(rig) == sorted((kind, id, "x", "y") for kind, id in kinds.items())
    for kind, id in kinds.items():
        by_type = [{"Name": "resource-type", "Values": [kind]}]
        assert await described(rig, Filters=by_type) == [(kind, id, "x", "y")]
        by_id = [{"Name": "resource-id", "Values": [id]}]
        assert await described(rig, Filters=by_id) == [(kind, id, "x", "y")]
    await rig.call("DeleteTags", Resources=list(kinds.values()))
    assert await described(rig) == []


@pytest.mark.parametrize(
    ("tags", "left"),
    [
        (None, {}),
        ([{"Key": "a"}], {"b": "2"}),
        ([{"Key": "a", "Value": "1"}], {"b": "2"}),
        ([{"Key": "a", "Value": "9"}], {"a": "1", "b": "2"}),
        ([{"Key": "a", "Value": ""}], {"a": "1", "b": "2"}),
        ([{"Key": "z"}], {"a": "1", "b": "2"}),
    ],
)
async def test_delete(rig: Rig, tags: list[dict[str, str]] | None, left: dict[str, str]) -> None:
    id = await rig.running()
    await rig.call("CreateTags", Resources=[id], Tags=pairs(a="1", b="2"))
    await rig.call("DeleteTags", Resources=[id], **({} if tags is None else {"Tags": tags}))
    assert (await rig.get(Instance, id)).tags == left


@pytest.mark.parametrize(
    ("code", "input"),
    [
        ("InvalidID", {"Resources": ["web-1"]}),
        ("InvalidID", {"Resources": ["ami-blah"]}),
        ("InvalidInstanceID.NotFound", {"Resources": ["i-00000001"]}),
        ("InvalidVolume.NotFound", {"Resources": ["vol-00000001"]}),
        ("InvalidSecurityGroupRuleId.NotFound", {"Resources": ["sgr-00000001"]}),
        ("InvalidParameterValue", {"Resources": ["i-00000001"] * 1001}),
        ("InvalidParameterValue", {"Tags": pairs(a="x" * 256)}),
        ("InvalidParameterValue", {"Tags": [{"Key": "x" * 128, "Value": ""}]}),
        ("InvalidParameterValue", {"Tags": [{"Key": "", "Value": ""}]}),
        ("InvalidParameterValue", {"Tags": [{"Key": "aws:x", "Value": ""}]}),
        ("InvalidParameterValue", {"Tags": [{"Key": "a", "Value": "1"}, {"Key": "a", "Value": "2"}]}),
        ("TagLimitExceeded", {"Tags": pairs(**{f"k{i}": "" for i in range(51)})}),
    ],
)
async def test_create_refuses(rig: Rig, code: str, input: dict[str, Any]) -> None:
    id = await rig.running()
    await rig.fails(code, "CreateTags", **{"Resources": [id], "Tags": pairs(a="b"), **input})


async def test_what_is_no_id(rig: Rig) -> None:
    message = await rig.fails("InvalidID", "CreateTags", Resources=["web-1"], Tags=pairs(a="b"))
    assert message == "The ID 'web-1' is not valid"


async def test_limit_counts_the_tags_that_are_there(rig: Rig) -> None:
    id = await rig.running()
    await rig.call("CreateTags", Resources=[id], Tags=pairs(**{f"k{i}": "" for i in range(50)}))
    await rig.call("CreateTags", Resources=[id], Tags=pairs(k0="again"))
    await rig.fails("TagLimitExceeded", "CreateTags", Resources=[id], Tags=pairs(more=""))


async def test_the_systems_resources_are_not_tagged(rig: Rig) -> None:
    image = await rig.image("ami-00000000000000002", name="system", account="")
    await rig.fails("UnauthorizedOperation", "CreateTags", Resources=[image.id], Tags=pairs(a="b"))


async def test_filters(rig: Rig) -> None:
    one, two = await rig.running(), await rig.running()
    await rig.call("CreateTags", Resources=[one], Tags=pairs(role="web", env="prod"))
    await rig.call("CreateTags", Resources=[two], Tags=pairs(role="db"))
    for name, values, count in (
        ("key", ["role"], 2),
        ("value", ["web", "prod"], 2),
        ("tag:role", ["d*"], 1),
        ("resource-id", [one], 2),
        ("resource-id", [f"{two[:-2]}*"], 1),
        ("resource-type", ["inst*"], 3),
        ("resource-type", ["volume"], 0),
    ):
        assert len(await described(rig, Filters=[{"Name": name, "Values": values}])) == count, (name, values)
    both = [{"Name": "resource-id", "Values": [one]}, {"Name": "key", "Values": ["env"]}]
    assert await described(rig, Filters=both) == [("instance", one, "env", "prod")]
    await rig.fails("InvalidParameterValue", "DescribeTags", Filters=[{"Name": "x", "Values": ["y"]}])


async def test_pages(rig: Rig) -> None:
    ids = [await rig.running() for _ in range(3)]
    volumes = [(await rig.get(Instance, id)).devices[0].volume for id in ids]
    await rig.call("CreateTags", Resources=[*ids, *volumes], Tags=pairs(a="1", b="2", c="3"))
    everything = await described(rig)
    assert len(everything) == 18
    seen: list[tuple[str, str, str, str]] = []
    token: dict[str, str] = {}
    for _ in range(4):
        answer = await rig.call("DescribeTags", MaxResults=5, **token)
        seen += [(t["ResourceType"], t["ResourceId"], t["Key"], t["Value"]) for t in answer["Tags"]]
        token = {"NextToken": answer.get("NextToken", "")}
    assert seen == everything
    assert token == {"NextToken": ""}


def test_every_kind_can_have_tags() -> None:
    nouns = [value for value in vars(lookup).values() if isinstance(value, lookup.Noun)]
    assert {noun.prefix for noun in nouns} == {noun.prefix for noun in tags.NOUNS.values()}
    model = Loader().load_service_model("ec2", "service-2")
    assert set(tags.TYPES) <= set(model["shapes"]["ResourceType"]["enum"])


async def test_tags_of_what_is_in_a_vpc(rig: Rig) -> None:
    vpc = (await rig.call("CreateVpc", CidrBlock="10.0.0.0/16"))["Vpc"]["VpcId"]
    [table] = await rig.find(RouteTable, vpc=vpc)
    [acl] = await rig.find(NetworkAcl, vpc=vpc)
    [options] = await rig.find(DhcpOptions)
    gateway = (await rig.call("CreateInternetGateway"))["InternetGateway"]["InternetGatewayId"]
    kinds = {
        vpc: "vpc",
        table.id: "route-table",
        acl.id: "network-acl",
        options.id: "dhcp-options",
        gateway: "internet-gateway",
    }
    await rig.call("CreateTags", Resources=list(kinds), Tags=pairs(Name="x"))
    shown = (await rig.call("DescribeTags"))["Tags"]
    assert {tag["ResourceId"]: tag["ResourceType"] for tag in shown} == kinds
    [system] = await rig.find(PrefixList, name="com.amazonaws.us-east-1.s3")
    await rig.fails("UnauthorizedOperation", "CreateTags", Resources=[system.id], Tags=pairs(Name="x"))
