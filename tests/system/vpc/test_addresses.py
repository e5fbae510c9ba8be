"""Interfaces and addresses that come and go while guests run."""

from __future__ import annotations

import time

import pytest

from ..realcloud import Item
from .guests import Guest
from .outside import seen_from_outside
from .shells import PATIENT_SECONDS
from .world import World

pytestmark = [pytest.mark.root, pytest.mark.qemu, pytest.mark.timeout(600)]


def status(world: World, interface: str) -> str:
    """The attachment's, or "available"."""
    found = world.cloud.ec2.describe_network_interfaces(NetworkInterfaceIds=[interface])
    [shown] = found["NetworkInterfaces"]
    return str(shown["Attachment"]["Status"] if "Attachment" in shown else shown["Status"])


def cards(world: World, guest: Guest) -> list[str]:
    return world.shells.run(guest, "cat /sys/class/net/eth*/address").split()


def test_second_interface_comes_and_goes(world: World) -> None:
    ec2, sh, wait = world.cloud.ec2, world.shells, world.cloud.wait
    near, far = world.guests["red-1"], world.guests["red-2"]
    before = cards(world, far)
    address = "10.0.2.20"
    made: Item = ec2.create_network_interface(SubnetId=world.private_subnet, PrivateIpAddress=address)
    id, mac = made["NetworkInterface"]["NetworkInterfaceId"], made["NetworkInterface"]["MacAddress"]
    assert sh.sees(near, address) is None
    attached = ec2.attach_network_interface(NetworkInterfaceId=id, InstanceId=far.id, DeviceIndex=1)
    wait("the interface to be attached", lambda: status(world, id) == "attached")
    wait("the guest to see it", lambda: cards(world, far) == [*before, mac])
    wait("its address", lambda: address in sh.run(far, "ip -4 -o addr show dev eth1"))
    # As on EC2: what is sent from its address has to leave by it.
    sh.run(far, f"ip rule add from {address} table 20")
    sh.run(
        far, "ip route add 10.0.2.1 dev eth1 table 20; ip route add default via 10.0.2.1 dev eth1 table 20"
    )
    wait("it to be reached", lambda: sh.sees(near, address) == ("red-2", near.private))
    assert sh.pings(near, address)
    assert sh.finds(near, far.private) == ("red-2", near.private)
    assert sh.sees(world.guests["blue-1"], address) is None

    ec2.detach_network_interface(AttachmentId=attached["AttachmentId"])
    wait("the interface to be free", lambda: status(world, id) == "available")
    wait("the guest to lose it", lambda: cards(world, far) == before)
    assert sh.sees(near, address) is None
    assert sh.finds(near, far.private) == ("red-2", near.private)
    ec2.delete_network_interface(NetworkInterfaceId=id)


def test_elastic_address_goes_to_a_guest_on_another_host(
    world: World, request: pytest.FixtureRequest
) -> None:
    """The addresses inside are secondary ones."""
    ec2, sh, wait = world.cloud.ec2, world.shells, world.cloud.wait
    one, other, far = world.guests["red-1"], world.guests["green-1"], world.guests["red-2"]
    elastic = ec2.allocate_address(Domain="vpc")
    public, allocation = elastic["PublicIp"], elastic["AllocationId"]
    inside = {one.name: "10.0.1.20", other.name: "10.1.1.20"}
    for guest in (one, other):
        ec2.assign_private_ip_addresses(
            NetworkInterfaceId=guest.interface, PrivateIpAddresses=[inside[guest.name]]
        )
        sh.run(guest, f"ip addr add {inside[guest.name]}/32 dev eth0")
    wait("the secondary address", lambda: sh.sees(far, inside[one.name]) == ("red-1", far.private))

    def give(guest: Guest) -> float:
        """How long it took, in seconds."""
        begin = time.monotonic()
        ec2.associate_address(
            AllocationId=allocation,
            NetworkInterfaceId=guest.interface,
            PrivateIpAddress=inside[guest.name],
            AllowReassociation=True,
        )
        wait(f"{guest.name} to have it", lambda: (seen_from_outside(public, 0.5) or [""])[0] == guest.name)
        return time.monotonic() - begin

    assert seen_from_outside(public) is None
    give(one)
    moves = [give(guest) for guest in (other, one, other)]
    request.node.user_properties.append(("moved_seconds", max(moves)))
    assert seen_from_outside(one.public, PATIENT_SECONDS) is not None

    shown = ec2.describe_addresses(AllocationIds=[allocation])["Addresses"][0]
    ec2.disassociate_address(AssociationId=shown["AssociationId"])
    wait("it to lead nowhere", lambda: not seen_from_outside(public))
    ec2.release_address(AllocationId=allocation)
    for guest in (one, other):
        ec2.unassign_private_ip_addresses(
            NetworkInterfaceId=guest.interface, PrivateIpAddresses=[inside[guest.name]]
        )
    wait("the secondary address to go", lambda: not sh.sees(far, inside[one.name]))
    for guest in (one, other):
        sh.run(guest, f"ip addr del {inside[guest.name]}/32 dev eth0")
