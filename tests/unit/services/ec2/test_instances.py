from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from gureum.gateway.call import Fragment
from gureum.resources import Instance, InstanceState, NetworkInterface, StateReason, Volume
from gureum.services.ec2 import describe, instances

if TYPE_CHECKING:
    from ..conftest import Rig

IMAGE = "ami-00000000000000001"


def ids(answer: dict[str, Any]) -> list[str]:
    return [each["InstanceId"] for r in answer["Reservations"] for each in r["Instances"]]


async def filtered(rig: Rig, name: str, *values: str) -> list[str]:
    return ids(await rig.call("DescribeInstances", Filters=[{"Name": name, "Values": list(values)}]))


async def test_nothing_to_describe(rig: Rig) -> None:
    assert await rig.call("DescribeInstances") == {"Reservations": []}


async def test_running_instance(rig: Rig) -> None:
    id = await rig.running(
        TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "a", "Value": "1"}]}]
    )
    [reservation] = (await rig.call("DescribeInstances"))["Reservations"]
    [shown] = reservation["Instances"]
    assert reservation["OwnerId"] == "123456789012"
    assert shown["InstanceId"] == id
    assert shown["State"] == {"Code": 16, "Name": "running"}
    assert "StateReason" not in shown
    assert shown["Tags"] == [{"Key": "a", "Value": "1"}]
    [device] = shown["BlockDeviceMappings"]
    assert device["DeviceName"] == shown["RootDeviceName"] == "/dev/xvda"
    assert device["Ebs"]["Status"] == "attached"
    [interface] = shown["NetworkInterfaces"]
    assert interface["PrivateIpAddress"] == shown["PrivateIpAddress"]
    assert interface["Association"]["PublicIp"] == shown["PublicIpAddress"]
    assert interface["Association"]["IpOwnerId"] == "amazon"
    assert shown["PublicDnsName"].startswith("ec2-198-18-0-")


async def test_grouped_by_reservation(rig: Rig) -> None:
    first = await rig.call("RunInstances", ImageId=IMAGE, MinCount=2, MaxCount=2)
    await rig.launch()
    reservations = (await rig.call("DescribeInstances"))["Reservations"]
    assert sorted(len(each["Instances"]) for each in reservations) == [1, 2]
    by_id = {each["ReservationId"]: each for each in reservations}
    assert len(by_id[first["ReservationId"]]["Instances"]) == 2


async def test_by_id(rig: Rig) -> None:
    one, two = await rig.running(), await rig.running()
    assert ids(await rig.call("DescribeInstances", InstanceIds=[two, one, two])) == [two, one]
    missing = "i-0123456789abcdef0"
    await rig.fails("InvalidInstanceID.NotFound", "DescribeInstances", InstanceIds=[one, missing])
    await rig.fails("InvalidInstanceID.Malformed", "DescribeInstances", InstanceIds=["foo"])


async def test_another_account_does_not_see_it(rig: Rig) -> None:
    id = await rig.running()
    await rig.change(Instance, id, account="999999999999")
    assert await rig.call("DescribeInstances") == {"Reservations": []}
    await rig.fails("InvalidInstanceID.NotFound", "DescribeInstances", InstanceIds=[id])


async def test_terminated_instance_has_lost_its_parts(rig: Rig) -> None:
    id = await rig.running()
    for interface in await rig.find(NetworkInterface):
        await rig.delete(interface)
    for volume in await rig.find(Volume):
        await rig.delete(volume)
    await rig.change(
        Instance,
        id,
        state=InstanceState.terminated,
        private_ip="",
        state_reason=StateReason("Client.UserInitiatedShutdown", "Client.UserInitiatedShutdown: x"),
    )
    [shown] = (await rig.call("DescribeInstances"))["Reservations"][0]["Instances"]
    assert shown["State"]["Name"] == "terminated"
    before = await rig.get(Instance, id)
    for name, value in (("subnet-id", before.subnet), ("vpc-id", before.vpc), ("vpc-id", "vpc-*")):
        filters = [{"Name": name, "Values": [value]}]
        assert (await rig.call("DescribeInstances", Filters=filters))["Reservations"] == []
    assert shown["StateReason"]["Code"] == "Client.UserInitiatedShutdown"
    assert shown["NetworkInterfaces"] == shown["BlockDeviceMappings"] == shown["SecurityGroups"] == []
    assert not {"VpcId", "SubnetId", "PrivateIpAddress", "PublicIpAddress"} & set(shown)
    assert shown["PublicDnsName"] == shown["PrivateDnsName"] == ""


async def test_pages(rig: Rig) -> None:
    await rig.call("RunInstances", ImageId=IMAGE, MinCount=12, MaxCount=12)
    seen: list[str] = []
    token: dict[str, Any] = {}
    sizes = []
    while True:
        answer = await rig.call("DescribeInstances", MaxResults=5, **token)
        sizes.append(len(ids(answer)))
        seen += sorted(ids(answer))
        if "NextToken" not in answer:
            break
        token = {"NextToken": answer["NextToken"]}
    assert sizes == [5, 5, 2]
    assert seen == sorted({each.id for each in await rig.find(Instance)})


async def test_a_reservation_shows_its_instances_in_the_order_of_launch(rig: Rig) -> None:
    launched = await rig.call("RunInstances", ImageId=IMAGE, MinCount=9, MaxCount=9)
    shown = await rig.call("DescribeInstances")
    assert ids(shown) == [each["InstanceId"] for each in launched["Instances"]]


async def test_last_page_is_full(rig: Rig) -> None:
    await rig.call("RunInstances", ImageId=IMAGE, MinCount=10, MaxCount=10)
    first = await rig.call("DescribeInstances", MaxResults=5)
    second = await rig.call("DescribeInstances", MaxResults=5, NextToken=first["NextToken"])
    assert len(ids(second)) == 5
    assert "NextToken" not in second


async def test_pages_of_filtered_instances(rig: Rig) -> None:
    small = await rig.call("RunInstances", ImageId=IMAGE, MinCount=7, MaxCount=7, InstanceType="t3.nano")
    await rig.call("RunInstances", ImageId=IMAGE, MinCount=8, MaxCount=8)
    filters = [{"Name": "instance-type", "Values": ["t3.n*"]}]
    first = await rig.call("DescribeInstances", MaxResults=5, Filters=filters)
    second = await rig.call("DescribeInstances", MaxResults=5, Filters=filters, NextToken=first["NextToken"])
    assert len(ids(first)) == 5
    assert "NextToken" not in second
    assert sorted(ids(first)) + sorted(ids(second)) == sorted(
        each["InstanceId"] for each in small["Instances"]
    )


@pytest.mark.parametrize(
    ("code", "input"),
    [
        ("InvalidParameterValue", {"MaxResults": 4}),
        ("InvalidParameterValue", {"MaxResults": 1001}),
        ("InvalidParameterCombination", {"MaxResults": 5, "InstanceIds": ["i-00000001"]}),
        ("InvalidNextToken", {"NextToken": "nonsense"}),
        ("InvalidNextToken", {"NextToken": "MQpEZXNjcmliZVZvbHVtZXMKdm9sLTE="}),
        ("InvalidParameterValue", {"Filters": [{"Name": "colour", "Values": ["red"]}]}),
        ("InvalidParameterValue", {"Filters": [{"Name": "vpc-id"}]}),
        ("FilterLimitExceeded", {"Filters": [{"Name": "vpc-id", "Values": ["x"] * 201}]}),
    ],
)
async def test_wrong_input(rig: Rig, code: str, input: dict[str, Any]) -> None:
    await rig.fails(code, "DescribeInstances", **input)


async def test_filters_on_the_record_and_on_what_belongs_to_it(rig: Rig) -> None:
    id = await rig.running(
        InstanceType="t3.nano",
        TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "role", "Value": "web"}]}],
    )
    await rig.launch()
    instance = await rig.get(Instance, id)
    interface = await rig.get(NetworkInterface, instance.interfaces[0])
    for name, value in {
        "instance-state-name": "running",
        "instance-state-code": "16",
        "instance-type": "t3.nano",
        "instance-id": id,
        "reservation-id": instance.reservation,
        "private-ip-address": instance.private_ip,
        "ip-address": interface.public_ip,
        "private-dns-name": f"ip-{instance.private_ip.replace('.', '-')}.ec2.internal",
        "tag:role": "w?b",
        "tag-key": "role",
        "tag-value": "web",
        "network-interface.mac-address": interface.mac,
        "network-interface.network-interface-id": interface.id,
        "network-interface.association.public-ip": interface.public_ip,
        "network-interface.private-ip-address": interface.private_ip,
        "block-device-mapping.volume-id": instance.devices[0].volume,
        "block-device-mapping.status": "attached",
    }.items():
        assert await filtered(rig, name, value) == [id], name
    both = (await rig.find(NetworkInterface))[1].groups[0]
    for name, value in {
        "group-id": both,
        "instance.group-id": both,
        "network-interface.group-id": both,
        "vpc-id": instance.vpc,
        "subnet-id": instance.subnet,
        "image-id": IMAGE,
        "availability-zone": "us-east-1*",
        "architecture": "x86_64",
        "instance.group-name": "default",
        "owner-id": "123456789012",
        "root-device-type": "ebs",
        "launch-time": "2027-01-15T08*",
        "network-interface.association.ip-owner-id": "amazon",
        "source-dest-check": "true",
    }.items():
        assert len(await filtered(rig, name, value)) == 2, name
    assert await filtered(rig, "tag:role", "db") == []
    assert await filtered(rig, "tag:other", "*") == []


async def test_filters_are_all_to_hold_and_values_any(rig: Rig) -> None:
    running, pending = await rig.running(), (await rig.launch())["InstanceId"]
    states = {"Name": "instance-state-name", "Values": ["running", "pending"]}
    assert set(ids(await rig.call("DescribeInstances", Filters=[states]))) == {running, pending}
    only = {"Name": "instance-state-name", "Values": ["run*"]}
    assert ids(await rig.call("DescribeInstances", Filters=[states, only])) == [running]
    twice = [states, {"Name": "instance-state-name", "Values": ["pending", "stopped"]}]
    assert ids(await rig.call("DescribeInstances", Filters=twice)) == [pending]


async def test_ids_and_filters_together(rig: Rig) -> None:
    one, two = await rig.running(), (await rig.launch())["InstanceId"]
    running = [{"Name": "instance-state-name", "Values": ["running"]}]
    assert ids(await rig.call("DescribeInstances", InstanceIds=[one, two], Filters=running)) == [one]


async def test_every_documented_filter_is_known(rig: Rig) -> None:
    await rig.running()
    for name in instances.INSTANCE_FILTERS.names:
        await rig.call("DescribeInstances", Filters=[{"Name": name, "Values": ["no such thing"]}])


@pytest.fixture
def rendering() -> Iterator[list[dict[str, Any]]]:
    """What was serialised while instances are answered as fragments."""
    made: list[dict[str, Any]] = []

    def render(service: str, shape: str, value: Any) -> Fragment:
        assert (service, shape) == ("ec2", "Instance")
        made.append(value)
        return Fragment(repr(without_times(value)))

    describe.VIEWS.render = render
    yield made
    describe.VIEWS.render = None


def without_times(value: Any) -> Any:
    return {name: each for name, each in value.items() if not name.endswith("Time")}


async def answered(rig: Rig) -> list[str]:
    """The texts of all instances. Fragments do not fit the model, so this calls the operation itself."""
    async with rig.store.read() as reader:
        answer = await instances.describe_instances(rig.context(reader), {})
    return [each.text for r in answer["Reservations"] for each in r["Instances"]]


async def test_items_are_serialised_once_until_a_part_changes(
    rig: Rig, rendering: list[dict[str, Any]]
) -> None:
    await rig.running()
    await rig.running()
    first = await answered(rig)
    assert len(rendering) == 3  # what both have in common, and each one's own
    assert await answered(rig) == first
    assert len(rendering) == 3
    interface = (await rig.find(NetworkInterface))[0]
    await rig.change(NetworkInterface, interface.id, public_ip="198.18.0.99")
    assert "198.18.0.99" in "".join(await answered(rig))
    assert len(rendering) == 4


async def test_a_fragment_says_what_the_item_says(rig: Rig, rendering: list[dict[str, Any]]) -> None:
    await rig.running(Monitoring={"Enabled": True})
    await answered(rig)
    async with rig.store.read() as reader:
        [item] = await describe.items(rig.context(reader), await reader.find(Instance))
    common, own = rendering
    assert not set(common) & set(own)
    assert {**common, **own} == item


async def test_state_is_never_stale(rig: Rig, rendering: list[dict[str, Any]]) -> None:
    id = await rig.running()
    assert "'running'" in (await answered(rig))[0]
    await rig.call("StopInstances", InstanceIds=[id])
    assert "'stopping'" in (await answered(rig))[0]


async def test_views_are_bounded(rig: Rig) -> None:
    views = describe.Views(items_max=2)
    await rig.call("RunInstances", ImageId=IMAGE, MinCount=3, MaxCount=3)
    for instance in await rig.find(Instance):
        views.get(describe.Parts(instance, (), (), (), None), rig.cloud)
    assert len(views) == 2


async def status(rig: Rig, **input: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await rig.call("DescribeInstanceStatus", **input))["InstanceStatuses"]
    return found


async def test_status_of_a_running_instance(rig: Rig) -> None:
    id = await rig.running()
    [shown] = await status(rig)
    assert shown["InstanceId"] == id
    assert shown["InstanceStatus"] == {
        "Status": "ok",
        "Details": [{"Name": "reachability", "Status": "passed"}],
    }
    assert shown["SystemStatus"]["Status"] == "ok"
    assert shown["Events"] == []


async def test_status_of_an_impaired_instance(rig: Rig) -> None:
    id = await rig.running()
    await rig.change(Instance, id, impaired="its pool is full")
    [shown] = await status(rig)
    assert shown["InstanceStatus"]["Status"] == "impaired"
    assert shown["AttachedEbsStatus"]["Status"] == "impaired"
    assert shown["SystemStatus"]["Status"] == "ok"
    impaired = [{"Name": "instance-status.status", "Values": ["impaired"]}]
    assert len(await status(rig, Filters=impaired)) == 1


async def test_status_shows_running_ones_unless_asked_for_all(rig: Rig) -> None:
    running, stopped = await rig.running(), await rig.stopped()
    assert [each["InstanceId"] for each in await status(rig)] == [running]
    assert await status(rig, InstanceIds=[stopped]) == []
    everything = {each["InstanceId"]: each for each in await status(rig, IncludeAllInstances=True)}
    assert set(everything) == {running, stopped}
    assert everything[stopped]["InstanceStatus"] == {"Status": "not-applicable"}
    [one] = await status(rig, InstanceIds=[stopped], IncludeAllInstances=True)
    assert one["InstanceState"]["Name"] == "stopped"


async def test_status_filters_by_state(rig: Rig) -> None:
    await rig.running()
    stopped = await rig.stopped()
    filters = [{"Name": "instance-state-name", "Values": ["stopped"]}]
    found = await status(rig, IncludeAllInstances=True, Filters=filters)
    assert [each["InstanceId"] for each in found] == [stopped]
    assert await status(rig, Filters=filters) == []
