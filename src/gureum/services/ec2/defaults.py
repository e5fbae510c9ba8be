"""What an account has from the start: the default VPC and all that is in it; and what every VPC has."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Network

from msgspec.structs import replace

from gureum.env import Env
from gureum.errors import ApiError
from gureum.resources import (
    AclEntry,
    DhcpOptions,
    InternetGateway,
    NetworkAcl,
    Permission,
    PrefixList,
    Route,
    RouteTable,
    SecurityGroup,
    Subnet,
    Vpc,
)
from gureum.services.operation import Cloud
from gureum.store.base import Reader, Transaction

VPC_CIDR = "172.31.0.0/16"
SUBNET_PREFIX = 20
GROUP_NAME = "default"
RESOLVER = "AmazonProvidedDNS"
"""In DHCP options: the VPC's own name server."""
NO_OPTIONS = "default"
"""In a VPC's place for DHCP options: none, so guests are told nothing."""
ENDPOINT_SERVICES = ("s3", "dynamodb")
"""Those that EC2 has gateway endpoints for."""
NETWORK_ID_MAX = (1 << 24) - 1
"""VXLAN ids have 24 bits."""
ACL_NUMBER = 100
ACL6_NUMBER = 101
"""The entries of a VPC's default ACL, which allow everything."""


async def ensure_defaults(tx: Transaction, env: Env, cloud: Cloud) -> Vpc | None:
    """Make what is missing; answers the default VPC, None if it was deleted.

    Once there, the default VPC and what is in it are the account's, to change and to delete: nothing of it
    comes back here. What a VPC cannot do without is given to those of a cloud that did not have it yet.
    """
    first = not await tx.count(PrefixList, account="")
    if first:
        for service in ENDPOINT_SERVICES:
            name = endpoint_service(cloud, service)
            await tx.put(PrefixList(id=env.new_id("pl"), name=name, max_entries=0))
    vpc = await default_vpc(tx, cloud.account)
    if vpc is None and first:
        return await make_default_vpc(tx, env, cloud)
    for each in await tx.find(Vpc):
        if not await tx.count(RouteTable, vpc=each.id):
            await _complete(tx, env, cloud, each)
    return vpc if vpc is None else await tx.get(Vpc, vpc.id)


def endpoint_service(cloud: Cloud, service: str) -> str:
    """The full name of a service, which is also that of its prefix list."""
    return f"com.amazonaws.{cloud.region}.{service}"


async def default_vpc(tx: Reader, account: str) -> Vpc | None:
    return next(iter(await tx.find(Vpc, default_of=account)), None)


async def make_default_vpc(tx: Transaction, env: Env, cloud: Cloud) -> Vpc:
    """With an Internet gateway, and a subnet in each zone."""
    vpc = await tx.put(
        Vpc(
            id=env.new_id("vpc"),
            account=cloud.account,
            cidr=VPC_CIDR,
            network_id=await free_network_id(tx),
            default=True,
            dhcp_options=(await default_options(tx, env, cloud)).id,
        )
    )
    await furnish(tx, env, vpc, await _internet(tx, env, vpc))
    for zone in cloud.zones:
        await tx.put(await default_subnet(tx, env, vpc, zone))
    return vpc


async def _complete(tx: Transaction, env: Env, cloud: Cloud, vpc: Vpc) -> None:
    """Give a VPC what those made by the first version of gureum lack."""
    if vpc.dhcp_options == NO_OPTIONS:
        options = await default_options(tx, env, cloud)
        vpc = await tx.put(replace(vpc, dhcp_options=options.id))
    acl = await furnish(tx, env, vpc, await _internet(tx, env, vpc) if vpc.default else ())
    for subnet in await tx.find(Subnet, vpc=vpc.id):
        await tx.put(replace(subnet, acl=acl.id, acl_association=env.new_id("aclassoc")))


async def _internet(tx: Transaction, env: Env, vpc: Vpc) -> tuple[Route, ...]:
    """A route to the VPC's Internet gateway, which is made if there is none."""
    gateways = await tx.find(InternetGateway, vpc=vpc.id)
    if not gateways:
        new = InternetGateway(id=env.new_id("igw"), account=vpc.account, vpc=vpc.id)
        gateways = [await tx.put(new)]
    return (Route(destination="0.0.0.0/0", target=gateways[0].id),)


async def furnish(tx: Transaction, env: Env, vpc: Vpc, routes: tuple[Route, ...] = ()) -> NetworkAcl:
    """What every VPC has: its main route table, its default ACL (the answer) and security group."""
    await tx.put(
        RouteTable(
            id=env.new_id("rtb"),
            account=vpc.account,
            vpc=vpc.id,
            number=1,
            main=True,
            main_association=env.new_id("rtbassoc"),
            routes=routes,
        )
    )
    if not await tx.count(SecurityGroup, vpc=vpc.id, name=GROUP_NAME):
        await tx.put(default_group(env, vpc))
    entries = allow_all(ACL_NUMBER, "0.0.0.0/0") + (allow_all(ACL6_NUMBER, "::/0") if vpc.cidrs6 else ())
    acl = NetworkAcl(id=env.new_id("acl"), account=vpc.account, vpc=vpc.id, default=True, entries=entries)
    return await tx.put(acl)


def allow_all(number: int, cidr: str) -> tuple[AclEntry, ...]:
    """Entries that allow everything from and to a network."""
    return AclEntry(number=number, cidr=cidr), AclEntry(number=number, egress=True, cidr=cidr)


async def default_acl(tx: Reader, vpc: str) -> NetworkAcl:
    return next(acl for acl in await tx.find(NetworkAcl, vpc=vpc) if acl.default)


async def default_options(tx: Transaction, env: Env, cloud: Cloud) -> DhcpOptions:
    """The set that new VPCs get: the cloud's domain and the VPC's own name server."""
    options: Mapping[str, tuple[str, ...]] = {
        "domain-name": (cloud.dns_domain,),
        "domain-name-servers": (RESOLVER,),
    }
    for each in await tx.find(DhcpOptions, account=cloud.account):
        if each.options == options:
            return each
    return await tx.put(DhcpOptions(id=env.new_id("dopt"), account=cloud.account, options=options))


async def free_network_id(tx: Reader) -> int:
    """One above the highest, so that a deleted VPC's is not reused as long as there are others."""
    taken = {vpc.network_id for vpc in await tx.find(Vpc)}
    above = max(taken, default=0) + 1
    if above <= NETWORK_ID_MAX:
        return above
    return next(number for number in range(1, NETWORK_ID_MAX + 1) if number not in taken)


async def default_subnet(tx: Reader, env: Env, vpc: Vpc, zone: str) -> Subnet:
    """A new default subnet, in the first part of the VPC that is free. Raises InvalidSubnet.Range."""
    taken = [IPv4Network(subnet.cidr) for subnet in await tx.find(Subnet, vpc=vpc.id)]
    parts = IPv4Network(vpc.cidr).subnets(new_prefix=SUBNET_PREFIX)
    free = next((part for part in parts if not any(part.overlaps(other) for other in taken)), None)
    if free is None:
        raise ApiError(
            "InvalidSubnet.Range",
            f"The default VPC {vpc.id} has no free /{SUBNET_PREFIX} for another default subnet.",
        )
    return Subnet(
        id=env.new_id("subnet"),
        account=vpc.account,
        vpc=vpc.id,
        zone=zone,
        cidr=str(free),
        default_for_az=True,
        map_public_ip=True,
        acl=(await default_acl(tx, vpc.id)).id,
        acl_association=env.new_id("aclassoc"),
    )


def default_group(env: Env, vpc: Vpc) -> SecurityGroup:
    """A VPC's own group: everything from its members, everything out."""
    id = env.new_id("sg")
    rules = [
        Permission(id=env.new_id("sgr"), protocol="-1", group=id, group_account=vpc.account),
        everything_out(env, "0.0.0.0/0"),
    ]
    if vpc.cidrs6:
        rules.append(everything_out(env, "::/0"))
    return SecurityGroup(
        id=id,
        account=vpc.account,
        name=GROUP_NAME,
        description="default VPC security group",
        vpc=vpc.id,
        rules=tuple(rules),
    )


def everything_out(env: Env, cidr: str) -> Permission:
    return Permission(
        id=env.new_id("sgr"),
        egress=True,
        protocol="-1",
        cidr="" if ":" in cidr else cidr,
        cidr6=cidr if ":" in cidr else "",
    )
