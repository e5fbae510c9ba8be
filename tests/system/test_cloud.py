"""The life of instances as their owner sees it, through boto3 and ssh."""

from __future__ import annotations

import base64
import os
import signal

import pytest

from .realcloud import Item, RealCloud, refused

pytestmark = [pytest.mark.qemu, pytest.mark.root, pytest.mark.timeout(600)]

SCRIPT = "#!/bin/sh\necho user data ran on $(hostname)\n"


@pytest.fixture(scope="module")
def pair(cloud: RealCloud) -> list[str]:
    """Two instances of one launch. A test that stops one starts it again."""
    tags = [{"Key": "Name", "Value": "web"}, {"Key": "stage", "Value": "test"}]
    ids = cloud.launch(
        count=2,
        UserData=SCRIPT,
        TagSpecifications=[{"ResourceType": kind, "Tags": tags} for kind in ("instance", "volume")],
    )
    cloud.waiter("instance_running", InstanceIds=ids)
    for id in ids:
        cloud.wait_ssh(id)
    return ids


@pytest.fixture(scope="module")
def hungry(cloud: RealCloud) -> str:
    """An instance whose guest uses most of its memory, and that may grow by that. It takes minutes, so one
    test has it begin, and the last one looks.
    """
    [id] = cloud.launch(InstanceType="t2.micro")
    cloud.wait_ssh(id)
    cloud.ssh(id, "mount -t tmpfs -o size=90% none /mnt && dd if=/dev/zero of=/mnt/use bs=1M count=700")
    bounds = {"MinInstanceType": "t2.micro", "MaxInstanceType": "t2.small"}
    cloud.fleet("set_instance_autosize", InstanceId=id, Mode="automatic", **bounds)
    return id


def find(cloud: RealCloud, **filters: str) -> list[str]:
    asked = [{"Name": name.replace("_", "-"), "Values": [value]} for name, value in filters.items()]
    pages = cloud.ec2.get_paginator("describe_instances").paginate(Filters=asked)
    return [
        item["InstanceId"]
        for page in pages
        for reservation in page["Reservations"]
        for item in reservation["Instances"]
    ]


def test_launched_instances_are_found(cloud: RealCloud, pair: list[str]) -> None:
    a, b = (cloud.instance(id) for id in pair)
    assert a["PrivateIpAddress"] != b["PrivateIpAddress"]
    assert a["PublicIpAddress"] != b["PublicIpAddress"]
    assert {a["AmiLaunchIndex"], b["AmiLaunchIndex"]} == {0, 1}
    assert sorted(find(cloud, **{"tag:Name": "web"})) == sorted(pair)
    assert sorted(find(cloud, **{"instance-state-name": "running", "tag-key": "stage"})) == sorted(pair)
    assert find(cloud, **{"private-ip-address": a["PrivateIpAddress"]}) == [pair[0]]
    assert find(cloud, **{"ip-address": b["PublicIpAddress"]}) == [pair[1]]
    assert find(cloud, **{"tag:Name": "other"}) == []
    cloud.waiter("instance_status_ok", InstanceIds=pair)
    volumes = cloud.ec2.describe_volumes(Filters=[{"Name": "tag:stage", "Values": ["test"]}])["Volumes"]
    assert {item["Attachments"][0]["InstanceId"] for item in volumes} == set(pair)


def test_an_instance_gets_bounds(cloud: RealCloud, hungry: str) -> None:
    [found] = cloud.fleet("describe_instance_autosizes")["InstanceAutosizes"]
    assert (found["InstanceId"], found["Mode"], found["TargetPercent"]) == (hungry, "automatic", 60)


def test_tags_come_and_go(cloud: RealCloud, pair: list[str]) -> None:
    cloud.ec2.create_tags(Resources=pair, Tags=[{"Key": "owner", "Value": "누구"}])
    assert sorted(find(cloud, **{"tag:owner": "누구"})) == sorted(pair)
    cloud.ec2.delete_tags(Resources=pair[:1], Tags=[{"Key": "owner"}])
    assert find(cloud, **{"tag-key": "owner"}) == pair[1:]


def test_user_data_runs_and_shows_on_the_console(cloud: RealCloud, pair: list[str]) -> None:
    for id in pair:
        name = cloud.instance(id)["PrivateDnsName"].partition(".")[0]
        cloud.wait("user data on the console", lambda id=id: "user data: exit status 0" in cloud.console(id))
        assert f"user data ran on {name}" in cloud.console(id)
    asked = cloud.ec2.describe_instance_attribute(InstanceId=pair[0], Attribute="userData")
    assert base64.b64decode(asked["UserData"]["Value"]).decode() == SCRIPT


def test_metadata_tells_an_instance_about_itself(cloud: RealCloud, pair: list[str]) -> None:
    for id in pair:
        shown = cloud.instance(id)
        items = {
            "instance-id": id,
            "ami-id": cloud.image,
            "instance-type": "t3.nano",
            "local-ipv4": shown["PrivateIpAddress"],
            "public-ipv4": shown["PublicIpAddress"],
            "local-hostname": shown["PrivateDnsName"],
            "placement/availability-zone": shown["Placement"]["AvailabilityZone"],
            "mac": shown["NetworkInterfaces"][0]["MacAddress"],
            "security-groups": "default",
        }
        command = "; ".join(f"imds latest/meta-data/{name} && echo" for name in items)
        assert cloud.ssh(id, command).splitlines() == list(items.values())
        assert cloud.ssh(id, "imds latest/user-data") == SCRIPT.strip()


def test_metadata_wants_a_token_unless_told_otherwise(cloud: RealCloud, pair: list[str]) -> None:
    request = "printf 'GET /latest/meta-data/instance-id HTTP/1.0\\r\\n\\r\\n'"
    plain = f"{request} | nc -w 3 169.254.169.254 80 | head -n 1"
    assert " 401 " in cloud.ssh(pair[0], plain)
    cloud.ec2.modify_instance_metadata_options(InstanceId=pair[0], HttpTokens="optional")
    cloud.wait("version 1 to be allowed", lambda: " 200 " in cloud.ssh(pair[0], plain))
    assert " 401 " in cloud.ssh(pair[1], plain)
    cloud.ec2.modify_instance_metadata_options(InstanceId=pair[0], HttpTokens="required")
    cloud.wait("version 1 to be refused", lambda: " 401 " in cloud.ssh(pair[0], plain))


def test_reboot_keeps_the_disk_and_the_addresses(cloud: RealCloud, pair: list[str]) -> None:
    id = pair[0]
    before, boot = cloud.instance(id), cloud.boot_id(id)
    cloud.ssh(id, "echo kept >/root/file && sync")
    process = cloud.qemu_pids()[id]
    cloud.ec2.reboot_instances(InstanceIds=[id])
    cloud.wait(
        "another boot", lambda: cloud.try_ssh(id, "cat /proc/sys/kernel/random/boot_id") not in ("", boot)
    )
    assert cloud.ssh(id, "cat /root/file") == "kept"
    after = cloud.instance(id)
    assert after["PublicIpAddress"] == before["PublicIpAddress"]
    assert after["LaunchTime"] == before["LaunchTime"]
    assert cloud.qemu_pids()[id] == process
    assert cloud.console(id).count("user data ran") == 1


def test_stop_change_of_type_start(cloud: RealCloud, pair: list[str]) -> None:
    id = pair[0]
    before = cloud.instance(id)
    memory = "awk '/MemTotal/ {print $2}' /proc/meminfo"
    small = int(cloud.ssh(id, memory))
    with refused("IncorrectInstanceState"):
        cloud.ec2.modify_instance_attribute(InstanceId=id, InstanceType={"Value": "t3.micro"})
    cloud.ssh(id, "echo kept >/root/stopped && sync")
    cloud.ec2.stop_instances(InstanceIds=[id])
    cloud.waiter("instance_stopped", InstanceIds=[id])
    stopped = cloud.instance(id)
    assert stopped["StateReason"]["Code"] == "Client.UserInitiatedShutdown"
    assert stopped["StateTransitionReason"].startswith("User initiated (")
    assert "PublicIpAddress" not in stopped
    assert stopped["PrivateIpAddress"] == before["PrivateIpAddress"]
    assert id not in cloud.qemu_pids()
    cloud.ec2.modify_instance_attribute(InstanceId=id, InstanceType={"Value": "t3.micro"})
    cloud.ec2.start_instances(InstanceIds=[id])
    cloud.waiter("instance_running", InstanceIds=[id])
    large = int(cloud.wait_ssh(id, memory))
    assert large > 1.5 * small
    assert cloud.ssh(id, "cat /root/stopped; imds latest/meta-data/instance-type") == "kept\nt3.micro"
    assert cloud.instance(id)["InstanceType"] == "t3.micro"


def test_another_type_while_it_runs(cloud: RealCloud) -> None:
    [id] = cloud.launch(InstanceType="t2.micro")
    memory = "awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo"
    small = int(cloud.wait_ssh(id, memory))
    boot = cloud.boot_id(id)

    def size() -> Item:
        found: Item
        [found] = cloud.fleet("describe_instance_sizes", InstanceIds=[id])["InstanceSizes"]
        return found

    def has(vcpus: int, low_mib: int, high_mib: int) -> bool:
        said = cloud.try_ssh(id, f"nproc; {memory}").split()
        return len(said) == 2 and int(said[0]) == vcpus and low_mib <= int(said[1]) <= high_mib

    assert cloud.ssh(id, "nproc") == "1"
    cloud.fleet("resize_instance", InstanceId=id, InstanceType="t2.medium")
    cloud.wait("4 GiB and a second vCPU", lambda: has(2, small + 2900, 4096))
    cloud.wait("what it has to be told", lambda: size()["State"] == "settled")
    assert cloud.instance(id)["InstanceType"] == "t2.medium"
    assert cloud.ssh(id, "imds latest/meta-data/instance-type") == "t2.medium"
    cloud.fleet("resize_instance", InstanceId=id, InstanceType="t2.small")
    # An emulated guest keeps its vCPUs: then its size is told to be stuck.
    cloud.wait("memory to be given back", lambda: size()["MemoryMiB"] == 2048)
    cloud.wait("the guest to have less", lambda: int(cloud.ssh(id, memory)) < 2048)
    cloud.wait("its end", lambda: size()["State"] in ("settled", "stuck"))
    with refused("InvalidStateException"):
        cloud.fleet("resize_instance", InstanceId=id, InstanceType="t2.nano")
    assert cloud.boot_id(id) == boot
    cloud.ec2.terminate_instances(InstanceIds=[id])
    cloud.waiter("instance_terminated", InstanceIds=[id])


def test_guest_that_powers_itself_off_is_stopped(cloud: RealCloud, pair: list[str]) -> None:
    id = pair[1]
    cloud.ssh(id, "(usleep 300000; poweroff) >/dev/null 2>&1 &")
    cloud.waiter("instance_stopped", InstanceIds=[id])
    shown = cloud.instance(id)
    assert shown["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"
    assert id not in cloud.qemu_pids()
    start(cloud, id)


def test_killed_hypervisor_stops_its_instance_only(cloud: RealCloud, pair: list[str]) -> None:
    id, other = pair
    boot = cloud.boot_id(other)
    cloud.ssh(id, "echo synced >/root/killed && sync")
    os.kill(cloud.qemu_pids()[id], signal.SIGKILL)
    cloud.waiter("instance_stopped", InstanceIds=[id])
    reason = cloud.instance(id)["StateReason"]
    assert reason["Code"] == "Server.InternalError"
    assert "SIGKILL" in reason["Message"]
    start(cloud, id)
    assert cloud.wait_ssh(id, "cat /root/killed") == "synced"
    assert cloud.boot_id(other) == boot


def test_killed_manager_and_agent_are_not_noticed_by_guests(cloud: RealCloud, pair: list[str]) -> None:
    boots, processes = [cloud.boot_id(id) for id in pair], cloud.qemu_pids()
    addresses = [cloud.instance(id)["PublicIpAddress"] for id in pair]
    cloud.kill("supervisor", "manager", "agent")
    cloud.wait("them to be gone", lambda: not cloud.cloud.is_running())
    assert [cloud.ssh_to(address, "echo there") for address in addresses] == ["there", "there"]
    cloud.start()
    cloud.waiter("instance_running", InstanceIds=pair)
    assert [cloud.boot_id(id) for id in pair] == boots
    assert cloud.qemu_pids() == processes


def test_termination_protection_and_what_termination_takes(cloud: RealCloud) -> None:
    mappings = [
        {"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 1, "DeleteOnTermination": True}},
        {"DeviceName": "/dev/sdg", "Ebs": {"VolumeSize": 1, "DeleteOnTermination": False}},
    ]
    [id] = cloud.launch(BlockDeviceMappings=mappings, DisableApiTermination=True)
    cloud.waiter("instance_running", InstanceIds=[id])
    shown = cloud.instance(id)
    volumes = {item["DeviceName"]: item["Ebs"]["VolumeId"] for item in shown["BlockDeviceMappings"]}
    with refused("OperationNotPermitted"):
        cloud.ec2.terminate_instances(InstanceIds=[id])
    cloud.ec2.modify_instance_attribute(InstanceId=id, DisableApiTermination={"Value": False})
    cloud.ec2.terminate_instances(InstanceIds=[id])
    cloud.waiter("instance_terminated", InstanceIds=[id])
    cloud.waiter("volume_deleted", VolumeIds=[volumes["/dev/sdf"], volumes[shown["RootDeviceName"]]])
    kept = volumes["/dev/sdg"]
    cloud.waiter("volume_available", VolumeIds=[kept])
    cloud.ec2.delete_volume(VolumeId=kept)
    cloud.wait("the volume to go", lambda: cloud.gone(kept))
    cloud.wait_clean()


def test_what_uses_much_of_its_memory_has_grown(cloud: RealCloud, hungry: str) -> None:
    boot = cloud.boot_id(hungry)
    cloud.wait("it to grow", lambda: cloud.instance(hungry)["InstanceType"] == "t2.small", seconds=500)
    memory = "awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo"
    cloud.wait("2 GiB", lambda: int(cloud.try_ssh(hungry, memory) or 0) > 1500)
    events = cloud.fleet("describe_events", InstanceId=hungry)["Events"]
    [why] = [each["Message"] for each in events if each["Name"] == "InstanceAutosized"]
    assert "becomes a t2.small instead of a t2.micro" in why
    assert "% of its memory, and the target is 60 %" in why
    assert cloud.boot_id(hungry) == boot
    cloud.ec2.terminate_instances(InstanceIds=[hungry])
    cloud.waiter("instance_terminated", InstanceIds=[hungry])


def start(cloud: RealCloud, id: str) -> None:
    cloud.ec2.start_instances(InstanceIds=[id])
    cloud.waiter("instance_running", InstanceIds=[id])
    cloud.wait_ssh(id)
