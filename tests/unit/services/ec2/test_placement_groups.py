from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gureum.resources import Host, HostState, Instance, InstanceState

if TYPE_CHECKING:
    from ..conftest import Rig

IMAGE = "ami-00000000000000001"
ONE: dict[str, Any] = {"ImageId": IMAGE, "InstanceType": "t3.micro", "MinCount": 1, "MaxCount": 1}
ZONE = {"AvailabilityZone": "us-east-1a"}
FULL = "InsufficientInstanceCapacity"


async def hosts(rig: Rig, count: int, **values: Any) -> None:
    """Besides host-a."""
    defaults = {"state": HostState.up, "zone": "us-east-1a", "cpus": 64, "memory_bytes": 64 << 30}
    await rig.put(*(Host(**{"id": f"host-{number}", **defaults, **values}) for number in range(count)))


async def group(rig: Rig, name: str = "g", **input: Any) -> str:
    made = await rig.call("CreatePlacementGroup", GroupName=name, **input)
    id: str = made["PlacementGroup"]["GroupId"]
    return id


async def test_a_group_is_made_described_and_deleted(rig: Rig) -> None:
    tags = [{"ResourceType": "placement-group", "Tags": [{"Key": "a", "Value": "b"}]}]
    made = await rig.call(
        "CreatePlacementGroup",
        GroupName="g",
        Strategy="partition",
        PartitionCount=3,
        TagSpecifications=tags,
    )
    shown = made["PlacementGroup"]
    assert shown["GroupId"].startswith("pg-")
    assert shown["GroupArn"].endswith(":placement-group/g")
    assert (shown["State"], shown["Strategy"], shown["PartitionCount"]) == ("available", "partition", 3)
    assert shown["Tags"] == [{"Key": "a", "Value": "b"}]
    assert (await rig.call("DescribePlacementGroups"))["PlacementGroups"] == [shown]
    await rig.call("DeletePlacementGroup", GroupName="g")
    assert (await rig.call("DescribePlacementGroups"))["PlacementGroups"] == []
    await rig.fails("InvalidPlacementGroup.Unknown", "DeletePlacementGroup", GroupName="g")


async def test_defaults_are_ec2_s(rig: Rig) -> None:
    await group(rig, "c")
    await group(rig, "p", Strategy="partition")
    await group(rig, "s", Strategy="spread")
    cluster, partition, spread = (await rig.call("DescribePlacementGroups"))["PlacementGroups"]
    assert cluster["Strategy"] == "cluster"
    assert "PartitionCount" not in cluster
    assert "SpreadLevel" not in cluster
    assert partition["PartitionCount"] == 2
    assert spread["SpreadLevel"] == "rack"


@pytest.mark.parametrize(
    ("code", "input"),
    [
        ("InvalidPlacementGroup.Duplicate", {"GroupName": "g"}),
        ("MissingParameter", {}),
        ("InvalidParameterValue", {"GroupName": "x" * 256}),
        ("InvalidParameterValue", {"GroupName": "x", "Strategy": "precision-time"}),
        ("InvalidParameterValue", {"GroupName": "x", "Strategy": "partition", "PartitionCount": 8}),
        ("InvalidParameterCombination", {"GroupName": "x", "PartitionCount": 2}),
        ("InvalidParameterCombination", {"GroupName": "x", "SpreadLevel": "host"}),
        ("InvalidParameterValue", {"GroupName": "x", "Strategy": "spread", "SpreadLevel": "galaxy"}),
        ("UnsupportedOperation", {"GroupName": "x", "LinkedGroupId": "pg-1"}),
    ],
)
async def test_what_a_group_cannot_be(rig: Rig, code: str, input: dict[str, Any]) -> None:
    await group(rig)
    await rig.fails(code, "CreatePlacementGroup", **input)


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("group-name", "p*", ["part"]),
        ("strategy", "spread", ["spr"]),
        ("spread-level", "host", ["spr"]),
        ("state", "available", ["part", "spr"]),
        ("group-arn", "*/spr", ["spr"]),
        ("tag:a", "b", ["part"]),
    ],
)
async def test_groups_are_filtered(rig: Rig, name: str, value: str, found: list[str]) -> None:
    id = await group(rig, "part", Strategy="partition")
    await group(rig, "spr", Strategy="spread", SpreadLevel="host")
    await rig.call("CreateTags", Resources=[id], Tags=[{"Key": "a", "Value": "b"}])
    filters = [{"Name": name, "Values": [value]}]
    answer = await rig.call("DescribePlacementGroups", Filters=filters)
    assert [each["GroupName"] for each in answer["PlacementGroups"]] == found


async def test_groups_by_name_and_id(rig: Rig) -> None:
    id = await group(rig)
    await group(rig, "other")
    for input in ({"GroupNames": ["g"]}, {"GroupIds": [id]}):
        [shown] = (await rig.call("DescribePlacementGroups", **input))["PlacementGroups"]
        assert shown["GroupId"] == id
    await rig.fails("InvalidPlacementGroup.Unknown", "DescribePlacementGroups", GroupNames=["g", "no"])
    await rig.fails(
        "InvalidPlacementGroup.Unknown", "DescribePlacementGroups", GroupIds=["pg-00000000000000000"]
    )


async def test_instances_are_in_their_group_until_they_end(rig: Rig) -> None:
    id = await group(rig)
    shown = await rig.launch(Placement={"GroupName": "g", **ZONE})
    assert shown["Placement"]["GroupName"] == "g"
    assert shown["Placement"]["GroupId"] == id
    assert (await rig.launch(Placement={"GroupId": id, **ZONE}))["Placement"]["GroupName"] == "g"
    for name in ("placement-group-name",):
        filters = [{"Name": name, "Values": ["g"]}]
        answer = await rig.call("DescribeInstances", Filters=filters)
        assert len([each for res in answer["Reservations"] for each in res["Instances"]]) == 2
    await rig.fails("InvalidPlacementGroup.InUse", "DeletePlacementGroup", GroupName="g")
    for each in await rig.find(Instance, groups=id):
        await rig.change(Instance, each.id, state=InstanceState.terminated)
    await rig.call("DeletePlacementGroup", GroupName="g")


@pytest.mark.parametrize(
    ("code", "placement"),
    [
        ("InvalidPlacementGroup.Unknown", {"GroupName": "no"}),
        ("InvalidPlacementGroup.Unknown", {"GroupId": "pg-00000000000000000"}),
        ("InvalidParameterCombination", {"GroupName": "g", "GroupId": "pg-00000000000000000"}),
        ("InvalidParameterCombination", {"GroupName": "g", "PartitionNumber": 1}),
        ("InvalidParameterCombination", {"PartitionNumber": 1}),
        ("InvalidParameterValue", {"GroupName": "p", "PartitionNumber": 3}),
        ("UnsupportedOperation", {"HostId": "h-1"}),
        ("UnsupportedOperation", {"Tenancy": "host"}),
        ("UnsupportedOperation", {"Affinity": "host"}),
        ("UnsupportedOperation", {"HostResourceGroupArn": "arn:x"}),
        ("UnsupportedOperation", {"SpreadDomain": "x"}),
    ],
)
async def test_places_that_there_are_not(rig: Rig, code: str, placement: dict[str, Any]) -> None:
    await group(rig)
    await group(rig, "p", Strategy="partition")
    await rig.fails(code, "RunInstances", **ONE, Placement=placement)


async def test_a_spread_group_needs_a_host_for_each(rig: Rig) -> None:
    await hosts(rig, 2)
    await group(rig, Strategy="spread")
    place = {"Placement": {"GroupName": "g", **ZONE}}
    message = await rig.fails(FULL, "RunInstances", **{**ONE, "MinCount": 4, "MaxCount": 4}, **place)
    assert "another instance of the spread group g" in message
    answer = await rig.call("RunInstances", **{**ONE, "MaxCount": 9}, **place)
    assert len(answer["Instances"]) == 3
    await rig.fails(FULL, "RunInstances", **ONE, **place)


async def test_a_cluster_is_in_one_zone(rig: Rig) -> None:
    await hosts(rig, 1, zone="us-east-1b")
    await group(rig)
    await rig.launch(Placement={"GroupName": "g", **ZONE})
    elsewhere = {"GroupName": "g", "AvailabilityZone": "us-east-1b"}
    message = await rig.fails(FULL, "RunInstances", **ONE, Placement=elsewhere)
    assert "the cluster group g are in zone us-east-1a" in message
    shown = await rig.launch(Placement={"GroupName": "g"})
    assert shown["Placement"]["AvailabilityZone"] == "us-east-1a"


async def test_instances_go_to_the_emptiest_partition(rig: Rig) -> None:
    await hosts(rig, 3)
    id = await group(rig, Strategy="partition", PartitionCount=2)
    place = {"Placement": {"GroupName": "g", **ZONE}}
    shown = await rig.launch(Placement={"GroupName": "g", "PartitionNumber": 2, **ZONE})
    assert shown["Placement"]["PartitionNumber"] == 2
    answer = await rig.call("RunInstances", **{**ONE, "MinCount": 3, "MaxCount": 3}, **place)
    assert [each["Placement"]["PartitionNumber"] for each in answer["Instances"]] == [1, 1, 2]
    filters = [{"Name": "placement-partition-number", "Values": ["1"]}]
    found = await rig.call("DescribeInstances", Filters=filters)
    assert len([each for res in found["Reservations"] for each in res["Instances"]]) == 2
    assert {each.partition for each in await rig.find(Instance, groups=id)} == {1, 2}


async def test_partitions_are_given_before_a_host_is_up(rig: Rig) -> None:
    await rig.change(Host, "host-a", state=HostState.down)
    await group(rig, Strategy="partition", PartitionCount=3)
    place = {"Placement": {"GroupName": "g", **ZONE}}
    answer = await rig.call("RunInstances", **{**ONE, "MinCount": 3, "MaxCount": 3}, **place)
    assert [each["Placement"]["PartitionNumber"] for each in answer["Instances"]] == [1, 2, 3]


async def test_dedicated_instances_share_no_host_with_others(rig: Rig) -> None:
    id = await rig.running(Placement=ZONE)
    await rig.change(Instance, id, account="000000000000")
    place = {"Placement": {"Tenancy": "dedicated", **ZONE}}
    message = await rig.fails(FULL, "RunInstances", **ONE, **place)
    assert "host-a has instances of another account" in message
    await hosts(rig, 1)
    shown = await rig.launch(**place)
    assert shown["Placement"]["Tenancy"] == "dedicated"
    filters = [{"Name": "tenancy", "Values": ["dedicated"]}]
    found = await rig.call("DescribeInstances", Filters=filters)
    assert [each["InstanceId"] for res in found["Reservations"] for each in res["Instances"]] == [
        shown["InstanceId"]
    ]


async def test_a_label_can_be_required_by_a_tag(rig: Rig) -> None:
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "gureum:host:disk", "Value": "ssd"}]}]
    message = await rig.fails(FULL, "RunInstances", **ONE, TagSpecifications=tags, Placement=ZONE)
    assert "host-a has no label disk=ssd" in message
    await rig.change(Host, "host-a", labels={"disk": "ssd"})
    await rig.launch(TagSpecifications=tags, Placement=ZONE)


async def test_a_stopped_instance_s_placement_is_modified(rig: Rig) -> None:
    await group(rig)
    part = await group(rig, "p", Strategy="partition", PartitionCount=3)
    id = await rig.stopped()

    async def placed(**input: Any) -> Instance:
        assert await rig.call("ModifyInstancePlacement", InstanceId=id, **input) == {"Return": True}
        return await rig.get(Instance, id)

    assert (await placed(GroupName="g")).group_name == "g"
    changed = await placed(GroupId=part)
    assert (changed.group, changed.partition) == (part, 1)
    assert (await placed(PartitionNumber=3)).partition == 3
    await rig.fails("InvalidParameterValue", "ModifyInstancePlacement", InstanceId=id, PartitionNumber=4)
    assert (await placed(Tenancy="dedicated")).partition == 3
    changed = await placed(GroupName="")
    assert (changed.group, changed.group_name, changed.partition) == ("", "", 0)
    assert changed.tenancy == "dedicated"
    await rig.fails("UnsupportedOperation", "ModifyInstancePlacement", InstanceId=id, HostId="h-1")
    await rig.fails("MissingParameter", "ModifyInstancePlacement", InstanceId=id)
    await rig.call("StartInstances", InstanceIds=[id])
    await rig.fails("IncorrectInstanceState", "ModifyInstancePlacement", InstanceId=id, GroupName="g")


async def test_a_start_says_what_its_group_needs(rig: Rig) -> None:
    await group(rig, Strategy="spread")
    id = await rig.stopped(Placement={"GroupName": "g", **ZONE})
    await rig.running(Placement={"GroupName": "g", **ZONE})
    message = await rig.fails(FULL, "StartInstances", InstanceIds=[id])
    assert "has another instance of the spread group g" in message


async def test_tags(rig: Rig) -> None:
    id = await group(rig)
    await rig.call("CreateTags", Resources=[id], Tags=[{"Key": "a", "Value": "b"}])
    [tag] = (await rig.call("DescribeTags"))["Tags"]
    assert (tag["ResourceType"], tag["ResourceId"]) == ("placement-group", id)
