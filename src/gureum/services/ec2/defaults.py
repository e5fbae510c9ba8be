"""What an account has from the start: the default VPC, its subnets and its security group."""

from __future__ import annotations

from ipaddress import IPv4Network

from gureum.env import Env
from gureum.resources import Permission, SecurityGroup, Subnet, Vpc
from gureum.services.operation import Cloud
from gureum.store.base import Transaction

VPC_CIDR = "172.31.0.0/16"
SUBNET_PREFIX = 20
GROUP_NAME = "default"


async def ensure_defaults(tx: Transaction, env: Env, cloud: Cloud) -> Vpc:
    """Make what is missing: the default VPC, a default subnet for each zone, the default security group."""
    vpc = await default_vpc(tx, cloud.account)
    if vpc is None:
        numbers = [each.network_id for each in await tx.find(Vpc)]
        vpc = await tx.put(
            Vpc(
                id=env.new_id("vpc"),
                account=cloud.account,
                cidr=VPC_CIDR,
                network_id=max(numbers, default=0) + 1,
                default=True,
                internet_gateway=env.new_id("igw"),
            )
        )
    await _ensure_subnets(tx, env, cloud, vpc)
    if not await tx.count(SecurityGroup, account=cloud.account, vpc=vpc.id, name=GROUP_NAME):
        await tx.put(default_group(env, vpc))
    return vpc


async def default_vpc(tx: Transaction, account: str) -> Vpc | None:
    return next((vpc for vpc in await tx.find(Vpc, account=account) if vpc.default), None)


async def _ensure_subnets(tx: Transaction, env: Env, cloud: Cloud, vpc: Vpc) -> None:
    subnets = await tx.find(Subnet, vpc=vpc.id)
    covered = {subnet.zone for subnet in subnets if subnet.default_for_az}
    taken = [IPv4Network(subnet.cidr) for subnet in subnets]
    free = (
        network
        for network in IPv4Network(vpc.cidr).subnets(new_prefix=SUBNET_PREFIX)
        if not any(network.overlaps(other) for other in taken)
    )
    for zone in cloud.zones:
        if zone in covered:
            continue
        await tx.put(
            Subnet(
                id=env.new_id("subnet"),
                account=cloud.account,
                vpc=vpc.id,
                zone=zone,
                cidr=str(next(free)),
                default_for_az=True,
                map_public_ip=True,
            )
        )


def default_group(env: Env, vpc: Vpc) -> SecurityGroup:
    """A VPC's own group: everything from its members, everything out."""
    id = env.new_id("sg")
    return SecurityGroup(
        id=id,
        account=vpc.account,
        name=GROUP_NAME,
        description="default VPC security group",
        vpc=vpc.id,
        rules=(
            Permission(id=env.new_id("sgr"), protocol="-1", group=id, group_account=vpc.account),
            Permission(id=env.new_id("sgr"), egress=True, protocol="-1", cidr="0.0.0.0/0"),
        ),
    )
