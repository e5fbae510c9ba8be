"""Network ACLs and security groups between guests on two hosts."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from ..realcloud import Item
from .guests import PORT, allow
from .shells import STREAM_PORT, TRY_SECONDS, new_pings, stream_to, streamed, take_stream
from .world import SAME_CIDR, World, member_of

pytestmark = [pytest.mark.root, pytest.mark.qemu, pytest.mark.timeout(600)]

ANYWHERE = "0.0.0.0/0"


# ---- network ACLs


@pytest.fixture
def acl(world: World) -> Iterator[str]:
    """An ACL for red's private subnet that lets everything through, as rule 100."""
    ec2 = world.cloud.ec2
    of_subnet = [{"Name": "association.subnet-id", "Values": [world.private_subnet]}]
    [default] = ec2.describe_network_acls(Filters=of_subnet)["NetworkAcls"]
    [association] = [each for each in default["Associations"] if each["SubnetId"] == world.private_subnet]
    id = ec2.create_network_acl(VpcId=world.vpcs["red"].id)["NetworkAcl"]["NetworkAclId"]
    for egress in (False, True):
        entry(world, id, 100, "allow", "-1", egress=egress)
    association = ec2.replace_network_acl_association(
        AssociationId=association["NetworkAclAssociationId"], NetworkAclId=id
    )
    yield id
    ec2.replace_network_acl_association(
        AssociationId=association["NewAssociationId"], NetworkAclId=default["NetworkAclId"]
    )
    ec2.delete_network_acl(NetworkAclId=id)


def entry(
    world: World,
    acl: str,
    number: int,
    action: str,
    protocol: str,
    ports: tuple[int, int] | None = None,
    egress: bool = False,
) -> None:
    more: Item = {"PortRange": {"From": ports[0], "To": ports[1]}} if ports else {}
    if protocol == "1":
        more["IcmpTypeCode"] = {"Type": -1, "Code": -1}
    world.cloud.ec2.create_network_acl_entry(
        NetworkAclId=acl,
        RuleNumber=number,
        Protocol=protocol,
        RuleAction=action,
        Egress=egress,
        CidrBlock=ANYWHERE,
        **more,
    )


def test_network_acl(world: World, acl: str) -> None:
    ec2, sh, wait = world.cloud.ec2, world.shells, world.cloud.wait
    near, far = world.guests["red-1"], world.guests["red-2"]
    assert sh.finds(near, far.private) == ("red-2", near.private)
    entry(world, acl, 50, "deny", "6", (PORT, PORT))
    wait("the port to be denied", lambda: not sh.sees(near, far.private))
    assert sh.pings(near, far.private)
    entry(world, acl, 40, "allow", "6", (PORT, PORT))
    wait("the lower number to win", lambda: sh.sees(near, far.private))
    ec2.delete_network_acl_entry(NetworkAclId=acl, RuleNumber=40, Egress=False)
    wait("the deny to hold again", lambda: not sh.sees(near, far.private))
    # Only what comes in is denied the port.
    assert sh.finds(far, near.private) == ("red-1", far.private)
    ec2.delete_network_acl_entry(NetworkAclId=acl, RuleNumber=50, Egress=False)
    wait("the port to be open again", lambda: sh.sees(near, far.private))
    # An answer is no exception: the rules know no flows.
    entry(world, acl, 50, "deny", "1", egress=True)
    wait("no answers", lambda: not sh.pings(near, far.private))
    assert sh.finds(near, far.private) == ("red-2", near.private)
    entry(world, acl, 60, "deny", "6", (32768, 65535), egress=True)
    wait("no answers of TCP either", lambda: not sh.sees(near, far.private))
    for number in (50, 60):
        ec2.delete_network_acl_entry(NetworkAclId=acl, RuleNumber=number, Egress=True)
    wait("answers", lambda: sh.sees(near, far.private))
    assert sh.pings(near, far.private)


# ---- security groups


def test_groups_follow_membership_across_hosts(world: World, request: pytest.FixtureRequest) -> None:
    ec2, sh, wait, red = world.cloud.ec2, world.shells, world.cloud.wait, world.vpcs["red"]
    near, far = world.guests["red-1"], world.guests["red-2"]
    members = red.new_group("members")
    servers = red.new_group("servers", allow("tcp", (22, 22), cidr=ANYWHERE), allow("icmp", group=members))
    joined, left = [], []
    with member_of(world, far, servers):
        wait("strangers to be shut out", lambda: not sh.pings(near, far.private))
        with sh.running(near, new_pings(far.private)) as pings:
            for _ in range(3):
                time.sleep(1.5)
                begin = time.monotonic()
                with member_of(world, near, red.group, members):
                    found = wait("the member to be let in", lambda begin=begin: pings.after(begin))
                    joined.append(found[0])
                    begin = time.monotonic()
                wait("it to be shut out", lambda: time.monotonic() > pings.lines[-1][0] + TRY_SECONDS)
                left.append(max([0.0, *pings.after(begin)]))
    # Told, not asserted: the machine may be busy.
    request.node.user_properties += [("joined_seconds", max(joined)), ("left_seconds", max(left))]
    wait("all to be let in", lambda: sh.pings(near, far.private))
    for group in (servers, members):
        ec2.delete_security_group(GroupId=group)


def test_rule_is_revoked_while_traffic_flows(world: World) -> None:
    ec2, sh, wait, red = world.cloud.ec2, world.shells, world.cloud.wait, world.vpcs["red"]
    near, far = world.guests["red-1"], world.guests["red-2"]
    rule = allow("tcp", (STREAM_PORT, 9001), cidr=SAME_CIDR)
    group = red.new_group("revoked", allow("tcp", (22, 22), cidr=ANYWHERE), rule)
    again = f"nc -w {TRY_SECONDS} {far.private} 9001 </dev/null 2>/dev/null || true"
    take_stream(sh, far)
    sh.run(far, "nc -ll -p 9001 -e /bin/hostname >/dev/null 2>&1 </dev/null &")
    with member_of(world, far, group):
        wait("others to be shut out", lambda: not sh.sees(near, far.private))
        wait("a new flow", lambda: sh.run(near, again) == "ip-10-0-2-10")
        with sh.running(near, stream_to(far.private)):
            wait("the stream to flow", lambda: streamed(sh, far))
            ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=[rule])
            wait("new flows to be refused", lambda: sh.run(near, again) == "")
            last = streamed(sh, far)[-1]
            wait("the old one to go on", lambda: streamed(sh, far)[-1] > last + 20)
    found = streamed(sh, far)
    assert found == list(range(1, len(found) + 1))
    sh.run(far, "killall nc sleep")
    wait("all to be let in", lambda: sh.sees(near, far.private))
    ec2.delete_security_group(GroupId=group)
