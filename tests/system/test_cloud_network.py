"""Names, security groups and addresses, tried out between guests and from the machine that runs them."""

from __future__ import annotations

import json
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from gureum.network.names import BENCHMARK_RANGE, Names

from .realcloud import GuestError, RealCloud, refused

pytestmark = [pytest.mark.qemu, pytest.mark.root, pytest.mark.timeout(600)]

PORT = 8080
TRY_SECONDS = 2
SERVE = f"mkdir -p /tmp/www && echo served >/tmp/www/index.html && httpd -p {PORT} -h /tmp/www"


@pytest.fixture(scope="module")
def web_group(cloud: RealCloud) -> str:
    """A group of which only ssh is open."""
    group = str(cloud.ec2.create_security_group(GroupName="web", Description="for the server")["GroupId"])
    cloud.ec2.authorize_security_group_ingress(
        GroupId=group, IpProtocol="tcp", FromPort=22, ToPort=22, CidrIp="0.0.0.0/0"
    )
    return group


@pytest.fixture(scope="module")
def client(cloud: RealCloud) -> str:
    """A guest in the default group."""
    [id] = cloud.launch()
    return id


@pytest.fixture(scope="module")
def server(cloud: RealCloud, client: str, web_group: str) -> str:
    """A guest in a group of its own that serves a page."""
    [id] = cloud.launch(SecurityGroupIds=[web_group])
    for guest in (client, id):
        cloud.wait_ssh(guest)
    cloud.ssh(id, SERVE)
    return id


def reached_by(cloud: RealCloud, client: str, host: str) -> bool:
    """Whether the client gets the page from this name or address."""
    try:
        return cloud.ssh(client, f"timeout {TRY_SECONDS} wget -q -O - http://{host}:{PORT}/") == "served"
    except GuestError:
        return False


def reached(cloud: RealCloud, server: str) -> bool:
    """Whether the page can be had from this machine, at the public address."""
    url = f"http://{cloud.instance(server)['PublicIpAddress']}:{PORT}/"
    try:
        with urllib.request.urlopen(url, timeout=TRY_SECONDS) as answer:
            return bool(answer.read() == b"served\n")
    except (urllib.error.URLError, TimeoutError):
        return False


def test_guests_know_each_other_by_private_name(cloud: RealCloud, client: str, server: str) -> None:
    shown = cloud.instance(server)
    found = cloud.ssh(client, f"nslookup {shown['PrivateDnsName']}")
    assert shown["PrivateIpAddress"] in found
    short = shown["PrivateDnsName"].partition(".")[0]
    assert shown["PrivateIpAddress"] in cloud.ssh(client, f"ping -c 1 -W 1 {short} | head -n 1")


def test_security_group_rules_work_at_once(
    cloud: RealCloud, client: str, server: str, web_group: str
) -> None:
    private = cloud.instance(server)["PrivateIpAddress"]
    assert not reached_by(cloud, client, private)
    assert not reached(cloud, server)

    from_default = {"IpProtocol": "tcp", "FromPort": PORT, "ToPort": PORT,
                    "UserIdGroupPairs": [{"GroupId": cloud.default_group()}]}  # fmt: skip
    cloud.ec2.authorize_security_group_ingress(GroupId=web_group, IpPermissions=[from_default])
    cloud.wait("the client to be let in", lambda: reached_by(cloud, client, private))
    assert reached_by(cloud, client, cloud.instance(server)["PrivateDnsName"])
    assert not reached(cloud, server)

    from_all = {"IpProtocol": "tcp", "FromPort": PORT, "ToPort": PORT, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    cloud.ec2.authorize_security_group_ingress(GroupId=web_group, IpPermissions=[from_all])
    cloud.wait("everybody to be let in", lambda: reached(cloud, server))
    with refused("InvalidPermission.Duplicate"):
        cloud.ec2.authorize_security_group_ingress(GroupId=web_group, IpPermissions=[from_all])

    cloud.ec2.revoke_security_group_ingress(GroupId=web_group, IpPermissions=[from_all, from_default])
    cloud.wait("everybody to be shut out", lambda: not reached(cloud, server))
    cloud.wait("the client to be shut out", lambda: not reached_by(cloud, client, private))


def test_groups_of_a_running_instance_change(
    cloud: RealCloud, client: str, server: str, web_group: str
) -> None:
    private = cloud.instance(server)["PrivateIpAddress"]
    both = [web_group, cloud.default_group()]
    cloud.ec2.modify_instance_attribute(InstanceId=server, Groups=both)
    cloud.wait("the client to be let in as a member", lambda: reached_by(cloud, client, private))
    with refused("DependencyViolation"):
        cloud.ec2.delete_security_group(GroupId=web_group)
    cloud.ec2.modify_instance_attribute(InstanceId=server, Groups=[web_group])
    cloud.wait("the client to be shut out", lambda: not reached_by(cloud, client, private))


def test_elastic_address_comes_and_goes(cloud: RealCloud, server: str) -> None:
    before = cloud.instance(server)["PublicIpAddress"]
    address = cloud.ec2.allocate_address(Domain="vpc")
    public, allocation = address["PublicIp"], address["AllocationId"]
    association = cloud.ec2.associate_address(AllocationId=allocation, InstanceId=server)["AssociationId"]
    assert cloud.instance(server)["PublicIpAddress"] == public
    cloud.wait("the new address", lambda: answers(cloud, public))
    assert cloud.ssh_to(public, "imds latest/meta-data/public-ipv4") == public
    assert not answers(cloud, before)
    with refused("InvalidIPAddress.InUse"):
        cloud.ec2.release_address(AllocationId=allocation)
    cloud.ec2.disassociate_address(AssociationId=association)
    automatic = cloud.instance(server)["PublicIpAddress"]
    assert automatic != public
    cloud.wait("an automatic address", lambda: answers(cloud, automatic))
    cloud.wait("the elastic address to go", lambda: not answers(cloud, public))
    cloud.ec2.release_address(AllocationId=allocation)


def answers(cloud: RealCloud, address: str) -> bool:
    try:
        return cloud.ssh_to(address, "echo here") == "here"
    except GuestError:
        return False


def test_elastic_address_stays_over_stop_and_start(cloud: RealCloud, server: str) -> None:
    address = cloud.ec2.allocate_address(Domain="vpc")
    associated = cloud.ec2.associate_address(AllocationId=address["AllocationId"], InstanceId=server)
    cloud.wait("the address", lambda: answers(cloud, address["PublicIp"]))
    cloud.ec2.stop_instances(InstanceIds=[server])
    cloud.waiter("instance_stopped", InstanceIds=[server])
    assert cloud.instance(server)["PublicIpAddress"] == address["PublicIp"]
    cloud.ec2.start_instances(InstanceIds=[server])
    cloud.waiter("instance_running", InstanceIds=[server])
    cloud.wait("the address again", lambda: answers(cloud, address["PublicIp"]))
    cloud.ec2.disassociate_address(AssociationId=associated["AssociationId"])
    cloud.ec2.release_address(AllocationId=address["AllocationId"])
    cloud.wait_ssh(server)
    cloud.ssh(server, SERVE)


@pytest.fixture
def listener() -> Iterator[int]:
    """A service of this machine, on all its addresses. Yields its port."""
    with socket.create_server(("0.0.0.0", 0)) as server:
        port: int = server.getsockname()[1]
        yield port


def lasting_addresses(cloud: RealCloud) -> list[str]:
    """The machine's, but those towards other clouds, that other tests start and end meanwhile."""
    shown = subprocess.run(["ip", "-4", "-j", "address"], capture_output=True, check=True).stdout
    own = (link for link in json.loads(shown) if link["ifname"] != "lo")
    found = [address["local"] for link in own for address in link["addr_info"]]
    own_links = Names(cloud.config.index).links
    return [
        each for each in found if ip_address(each) not in BENCHMARK_RANGE or ip_address(each) in own_links
    ]


def test_guests_do_not_reach_services_of_the_machine(cloud: RealCloud, client: str, listener: int) -> None:
    addresses = lasting_addresses(cloud)
    gateway = cloud.ssh(client, "ip route show default | awk '{print $3}'")
    assert addresses
    for address in (*addresses, gateway):
        with socket.socket() as probe:
            probe.settimeout(TRY_SECONDS)
            heard = address in addresses and probe.connect_ex((address, listener)) == 0
        assert heard == (address in addresses)
        with pytest.raises(GuestError):
            cloud.ssh(client, f"nc -w {TRY_SECONDS} {address} {listener} </dev/null")
