from __future__ import annotations

from typing import TYPE_CHECKING

from gureum.resources import (
    DhcpOptions,
    InternetGateway,
    NetworkAcl,
    PrefixList,
    Record,
    RouteTable,
    SecurityGroup,
    Subnet,
    Vpc,
)
from gureum.services.ec2 import defaults
from gureum.services.ec2.defaults import ensure_defaults
from gureum.store.base import Transaction

if TYPE_CHECKING:
    from ..conftest import Rig


async def ensure(rig: Rig) -> Vpc | None:
    async def work(tx: Transaction) -> Vpc | None:
        return await ensure_defaults(tx, rig.env, rig.cloud)

    return await rig.store.transact(work)


async def test_what_an_account_has_from_the_start(rig: Rig) -> None:
    [vpc] = await rig.find(Vpc)
    [gateway] = await rig.find(InternetGateway, vpc=vpc.id)
    [table] = await rig.find(RouteTable)
    [acl] = await rig.find(NetworkAcl)
    [options] = await rig.find(DhcpOptions)
    assert (vpc.default, vpc.dns_hostnames, vpc.dhcp_options) == (True, True, options.id)
    assert (table.number, table.main, table.main_association[:9]) == (1, True, "rtbassoc-")
    assert [(route.destination, route.target) for route in table.routes] == [("0.0.0.0/0", gateway.id)]
    assert [(e.number, e.egress, e.allow, e.cidr) for e in acl.entries] == [
        (100, False, True, "0.0.0.0/0"),
        (100, True, True, "0.0.0.0/0"),
    ]
    subnets = await rig.find(Subnet)
    assert {subnet.zone for subnet in subnets} == set(rig.cloud.zones)
    assert {subnet.acl for subnet in subnets} == {acl.id}
    assert len({subnet.acl_association for subnet in subnets}) == 3
    assert options.options["domain-name"] == ("ec2.internal",)
    assert {each.name for each in await rig.find(PrefixList)} == {
        "com.amazonaws.us-east-1.s3",
        "com.amazonaws.us-east-1.dynamodb",
    }


async def test_they_are_made_once(rig: Rig) -> None:
    before = rig.store.revision
    assert await ensure(rig) == (await rig.find(Vpc))[0]
    assert rig.store.revision == before
    assert len(await rig.find(Vpc)) == len(await rig.find(SecurityGroup)) == 1


async def test_what_its_owner_deleted_does_not_come_back(rig: Rig) -> None:
    [second] = await rig.find(Subnet, zone="us-east-1b")
    await rig.call("DeleteSubnet", SubnetId=second.id)
    [gateway] = await rig.find(InternetGateway)
    await rig.call("DetachInternetGateway", InternetGatewayId=gateway.id, VpcId=second.vpc)
    before = rig.store.revision
    await ensure(rig)
    assert rig.store.revision == before


async def test_a_deleted_default_vpc_does_not_come_back(rig: Rig) -> None:
    [vpc] = await rig.find(Vpc)
    for subnet in await rig.find(Subnet):
        await rig.call("DeleteSubnet", SubnetId=subnet.id)
    [gateway] = await rig.find(InternetGateway)
    await rig.call("DetachInternetGateway", InternetGatewayId=gateway.id, VpcId=vpc.id)
    await rig.call("DeleteVpc", VpcId=vpc.id)
    assert await ensure(rig) is None
    assert await rig.find(Vpc) == []


async def test_a_vpc_of_the_first_version_is_completed(empty: Rig) -> None:
    vpc = Vpc(id="vpc-00000001", account="123456789012", cidr="172.31.0.0/16", network_id=1, default=True)
    old = Subnet(
        id="subnet-00000001",
        account=vpc.account,
        vpc=vpc.id,
        zone="us-east-1a",
        cidr="172.31.0.0/20",
        default_for_az=True,
    )
    group = defaults.default_group(empty.env, vpc)
    records: tuple[Record, ...] = (vpc, old, group)
    await empty.put(*records)
    found = await ensure(empty)
    assert found is not None
    assert found == await empty.get(Vpc, vpc.id)
    [options] = await empty.find(DhcpOptions)
    assert found.dhcp_options == options.id
    [acl] = await empty.find(NetworkAcl)
    [subnet] = await empty.find(Subnet)
    assert (subnet.acl, subnet.acl_association[:9]) == (acl.id, "aclassoc-")
    [table] = await empty.find(RouteTable)
    [gateway] = await empty.find(InternetGateway, vpc=vpc.id)
    assert table.main
    assert table.routes[0].target == gateway.id
    assert [each.id for each in await empty.find(SecurityGroup)] == [group.id]


async def test_network_ids_grow(rig: Rig) -> None:
    first = (await rig.call("CreateVpc", CidrBlock="10.0.0.0/16"))["Vpc"]["VpcId"]
    assert (await rig.get(Vpc, first)).network_id == 2
    await rig.change(Vpc, first, network_id=defaults.NETWORK_ID_MAX)
    second = (await rig.call("CreateVpc", CidrBlock="10.0.0.0/16"))["Vpc"]["VpcId"]
    assert (await rig.get(Vpc, second)).network_id == 2
