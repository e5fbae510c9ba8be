"""Network interfaces of running instances, through boto3 and from inside the guests."""

from __future__ import annotations

import pytest

from .realcloud import Item, RealCloud

pytestmark = [pytest.mark.qemu, pytest.mark.root, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def guest(cloud: RealCloud) -> str:
    [id] = cloud.launch()
    cloud.waiter("instance_running", InstanceIds=[id])
    cloud.wait_ssh(id)
    return id


def made(cloud: RealCloud, guest: str, **parameters: object) -> Item:
    subnet = cloud.instance(guest)["SubnetId"]
    shown: Item = cloud.ec2.create_network_interface(SubnetId=subnet, **parameters)["NetworkInterface"]
    return shown


def status(cloud: RealCloud, interface: str) -> str:
    """The attachment's, or "available"."""
    [shown] = cloud.ec2.describe_network_interfaces(NetworkInterfaceIds=[interface])["NetworkInterfaces"]
    return str(shown["Attachment"]["Status"] if "Attachment" in shown else shown["Status"])


def attach(cloud: RealCloud, interface: str, guest: str) -> str:
    answer = cloud.ec2.attach_network_interface(NetworkInterfaceId=interface, InstanceId=guest, DeviceIndex=1)
    cloud.wait("the interface to be attached", lambda: status(cloud, interface) == "attached")
    return str(answer["AttachmentId"])


def cards(cloud: RealCloud, guest: str) -> list[str]:
    return cloud.ssh(guest, "cat /sys/class/net/eth*/address").split()


def address_by_dhcp(cloud: RealCloud, guest: str) -> str:
    """What DHCP gives on the second interface; the guest is left as it was."""
    lease = "ip link set eth1 up; udhcpc -i eth1 -n -q -f -s /bin/true 2>&1"
    return next(word.rstrip(",") for word in cloud.ssh(guest, lease).split() if word.startswith("172."))


def test_interface_is_plugged_and_unplugged_while_the_guest_runs(cloud: RealCloud, guest: str) -> None:
    before = cards(cloud, guest)
    taps = cloud.taps()
    interface = made(cloud, guest, SecondaryPrivateIpAddressCount=1)
    id = interface["NetworkInterfaceId"]
    for force in (False, True):
        attachment = attach(cloud, id, guest)
        cloud.wait("the guest to see it", lambda: cards(cloud, guest) == [*before, interface["MacAddress"]])
        assert address_by_dhcp(cloud, guest) == interface["PrivateIpAddress"]
        macs = cloud.ssh(guest, "imds latest/meta-data/network/interfaces/macs/").split()
        assert {mac.rstrip("/") for mac in macs} == {*before, interface["MacAddress"]}
        cloud.kill("agent", "manager")
        cloud.ec2.detach_network_interface(AttachmentId=attachment, Force=force)
        cloud.wait("the interface to be free", lambda: status(cloud, id) == "available")
        cloud.wait("the guest to lose it", lambda: cards(cloud, guest) == before)
        cloud.wait("its tap to go", lambda: cloud.taps() == taps)
    cloud.ec2.delete_network_interface(NetworkInterfaceId=id)


def test_instance_with_two_interfaces(cloud: RealCloud, guest: str) -> None:
    """The second one is there from the start, and goes with the instance."""
    subnet = cloud.instance(guest)["SubnetId"]
    [id] = cloud.launch(
        InstanceType="t3.micro",
        NetworkInterfaces=[{"DeviceIndex": n, "SubnetId": subnet} for n in range(2)],
    )
    cloud.waiter("instance_running", InstanceIds=[id])
    first, second = cloud.instance(id)["NetworkInterfaces"]
    address = cloud.ec2.allocate_address(Domain="vpc")
    cloud.ec2.associate_address(
        AllocationId=address["AllocationId"], NetworkInterfaceId=first["NetworkInterfaceId"]
    )
    cloud.wait_ssh(id)
    assert cards(cloud, id) == [first["MacAddress"], second["MacAddress"]]
    assert address_by_dhcp(cloud, id) == second["PrivateIpAddress"]
    cloud.ec2.terminate_instances(InstanceIds=[id])
    cloud.waiter("instance_terminated", InstanceIds=[id])
    left = cloud.ec2.describe_network_interfaces()["NetworkInterfaces"]
    assert {each["Attachment"]["InstanceId"] for each in left} == {guest}
    cloud.ec2.release_address(AllocationId=address["AllocationId"])
