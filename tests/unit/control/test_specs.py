from __future__ import annotations

from typing import Any

from gureum.control.specs import STOP_SECONDS, TERMINATE_SECONDS, host_spec
from gureum.hostspec import HostSpec
from gureum.resources import (
    AttachmentState,
    CidrAssociation,
    Image,
    InstanceState,
    InternetGateway,
    Permission,
    SecondaryAddress,
    SecurityGroup,
    SnapshotState,
    Subnet,
    VolumeState,
    Vpc,
)
from gureum.services.operation import Cloud

CLOUD = Cloud(
    name="test",
    account="123456789012",
    region="us-east-1",
    zones=("us-east-1a",),
    public_cidr="198.18.0.0/24",
)


async def spec(bench: Any, host: str = "host-0") -> HostSpec:
    async with bench.store.read() as reader:
        return await host_spec(reader, CLOUD, host)


async def test_a_host_gets_what_is_its_own_at_the_revision_read(bench: Any, make: Any) -> None:
    await bench.put(
        make.instance("i-1"), make.instance("i-2", host="host-1"), make.volume("vol-2", host=None)
    )
    got = await spec(bench)
    assert [machine.id for machine in got.machines] == ["i-1"]
    assert got.volumes == ()
    assert (got.cloud, got.host, got.revision) == ("test", "host-0", bench.store.revision)


async def test_who_runs_and_who_is_off(bench: Any, make: Any) -> None:
    for state in InstanceState:
        await bench.put(make.instance(f"i-{state}", state=state, generation=3))
    machines = {machine.id: machine for machine in (await spec(bench)).machines}
    assert machines.keys() == {f"i-{state}" for state in InstanceState} - {"i-terminated"}
    assert {id for id, machine in machines.items() if machine.run} == {"i-pending", "i-running"}
    assert {machine.generation for machine in machines.values()} == {3}
    assert machines["i-stopping"].shutdown_seconds == STOP_SECONDS
    assert machines["i-shutting-down"].shutdown_seconds == TERMINATE_SECONDS


async def test_the_user_data_of_who_is_off_is_not_sent(bench: Any, make: Any) -> None:
    """Thousands that are off would make a spec too large for a message."""
    await bench.put(
        make.instance("i-1", state=InstanceState.stopping, user_data=b"#!"),
        make.instance("i-2", state=InstanceState.stopped, user_data=b"#!"),
    )
    assert [machine.metadata.user_data for machine in (await spec(bench)).machines] == [b"#!", b""]


async def test_force_leaves_the_guest_no_time(bench: Any, make: Any) -> None:
    await bench.put(make.instance(state=InstanceState.stopping, force=True))
    assert (await spec(bench)).machines[0].shutdown_seconds == 0


async def test_disks_leave_when_they_are_being_detached(bench: Any, make: Any) -> None:
    await bench.put(
        make.instance(state=InstanceState.running, root_device="/dev/sdf"),
        make.attached("vol-1"),
        make.attached("vol-2", state=AttachmentState.detaching),
    )
    [machine] = (await spec(bench)).machines
    assert [(disk.volume, disk.index) for disk in machine.disks] == [("vol-1", 0)]


async def test_data_is_named_to_be_deleted(bench: Any, make: Any) -> None:
    await bench.put(
        make.volume("vol-1", state=VolumeState.deleting),
        make.volume("vol-2", state=VolumeState.available),
        make.volume("vol-3", state=VolumeState.creating),
        make.volume("vol-4", state=VolumeState.error),
        make.snapshot("snap-1", state=SnapshotState.deleting),
        make.snapshot("snap-2", state=SnapshotState.completed),
        make.snapshot("snap-3", state=SnapshotState.pending),
        make.snapshot("snap-4", state=SnapshotState.error),
    )
    got = await spec(bench)
    assert {each.id: (each.present, each.made) for each in got.volumes} == {
        "vol-1": (False, False),
        "vol-2": (True, True),
        "vol-3": (True, False),
    }
    assert {each.id: (each.present, each.made) for each in got.snapshots} == {
        "snap-1": (False, False),
        "snap-2": (True, True),
        "snap-3": (True, False),
        "snap-4": (False, False),
    }


async def test_images_that_volumes_come_from(bench: Any, make: Any) -> None:
    created = make.volume().created
    await bench.put(
        Image(id="ami-1", name="a", disk="/images/a", disk_bytes=5, created=created),
        Image(id="ami-2", name="b", disk="/images/b", disk_bytes=6, created=created),
        make.volume(source="ami-2"),
    )
    assert [(image.id, image.size_bytes) for image in (await spec(bench)).images] == [("ami-2", 6)]


async def test_the_network_of_running_instances(bench: Any, make: Any) -> None:
    rules = (
        Permission(id="sgr-1", protocol="tcp", from_port=22, to_port=22, cidr="0.0.0.0/0"),
        Permission(id="sgr-2", protocol="-1", group="sg-2"),
        Permission(id="sgr-3", protocol="-1", cidr6="::/0"),
    )
    await bench.put(
        Vpc(id="vpc-1", cidr="172.31.0.0/16", network_id=1),
        InternetGateway(id="igw-1", vpc="vpc-1"),
        Vpc(id="vpc-2", cidr="10.0.0.0/16", network_id=2),
        Subnet(id="subnet-1", vpc="vpc-1", zone="us-east-1a", cidr="172.31.0.0/20"),
        SecurityGroup(id="sg-1", name="web", description="", vpc="vpc-1", rules=rules),
        SecurityGroup(id="sg-2", name="db", description="", vpc="vpc-1"),
        make.instance("i-1", state=InstanceState.running),
        make.instance("i-2", state=InstanceState.stopped),
        make.interface("eni-1", host="host-0", groups=("sg-1",), public_ip="198.18.0.4"),
        make.interface("eni-2", host="host-1", private_ip="172.31.0.5", groups=("sg-2",)),
        make.interface("eni-3", instance=None, private_ip="172.31.0.6", groups=("sg-2",)),
    )
    network = (await spec(bench)).network
    assert [(port.id, port.hostname, port.public_ip) for port in network.ports] == [
        ("eni-1", "ip-172-31-0-4", "198.18.0.4")
    ]
    assert [(vpc.id, vpc.internet, len(vpc.subnets)) for vpc in network.vpcs] == [("vpc-1", True, 1)]
    assert [group.id for group in network.groups] == ["sg-1"]
    assert [(rule.cidr, rule.group) for rule in network.groups[0].rules] == [
        ("0.0.0.0/0", ""),
        ("", "sg-2"),
        ("::/0", ""),
    ]
    assert network.members == {"sg-2": ("172.31.0.5",)}


async def test_metadata_names_interface_and_devices(bench: Any, make: Any) -> None:
    await bench.put(
        Vpc(id="vpc-1", cidr="172.31.0.0/16", network_id=1),
        Subnet(id="subnet-1", vpc="vpc-1", zone="us-east-1a", cidr="172.31.0.0/20"),
        make.instance(state=InstanceState.running, tags={"Name": "x"}, user_data=b"#!"),
        make.interface(public_ip="198.18.0.4"),
    )
    [machine] = (await spec(bench)).machines
    metadata = machine.metadata
    assert metadata.interfaces[0].public_dns == "ec2-198-18-0-4.compute-1.amazonaws.com"
    assert metadata.interfaces[0].subnet_cidr == "172.31.0.0/20"
    assert metadata.block_devices == {"ami": "xvda", "root": "/dev/xvda"}
    assert (metadata.user_data, metadata.tags) == (b"#!", {})
    assert [nic.interface for nic in machine.nics] == ["eni-1"]


async def test_metadata_has_all_interfaces_with_all_their_addresses(bench: Any, make: Any) -> None:
    await bench.put(
        Vpc(
            id="vpc-1",
            cidr="172.31.0.0/16",
            network_id=1,
            dns_hostnames=False,
            associations=(
                CidrAssociation(id="vpc-cidr-assoc-1", cidr="10.0.0.0/16"),
                CidrAssociation(id="vpc-cidr-assoc-2", cidr="fd00:1::/56"),
            ),
        ),
        Subnet(id="subnet-1", vpc="vpc-1", zone="us-east-1a", cidr="172.31.0.0/20"),
        Subnet(
            id="subnet-2",
            vpc="vpc-1",
            zone="us-east-1a",
            cidr="10.0.0.0/24",
            ipv6=CidrAssociation(id="subnet-cidr-assoc-1", cidr="fd00:1::/64"),
        ),
        SecurityGroup(id="sg-1", name="web", description="", vpc="vpc-1"),
        make.instance(state=InstanceState.running),
        make.interface(
            "eni-2",
            device_index=1,
            subnet="subnet-2",
            mac="02:00:00:00:00:02",
            private_ip="10.0.0.4",
            secondary=(SecondaryAddress(private_ip="10.0.0.5", public_ip="198.18.0.5"),),
            ipv6=("fd00:1::4",),
            groups=("sg-1",),
        ),
        make.interface("eni-1", public_ip="198.18.0.4"),
    )
    [machine] = (await spec(bench)).machines
    first, second = machine.metadata.interfaces
    assert (first.id, first.device_index, first.public_ip, first.public_dns) == ("eni-1", 0, "198.18.0.4", "")
    assert (second.id, second.device_index, second.mac) == ("eni-2", 1, "02:00:00:00:00:02")
    assert second.secondary == (("10.0.0.5", "198.18.0.5"),)
    assert second.ipv6 == ("fd00:1::4",)
    assert (second.subnet_cidr, second.subnet_cidr6) == ("10.0.0.0/24", "fd00:1::/64")
    assert second.vpc_cidr == "172.31.0.0/16"
    assert second.vpc_cidrs == ("172.31.0.0/16", "10.0.0.0/16", "fd00:1::/56")
    assert (second.group_ids, second.group_names) == (("sg-1",), ("web",))
    assert second.owner == first.owner != ""
