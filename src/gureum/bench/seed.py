"""Many instances in a store, as RunInstances would have left them, without running any."""

from __future__ import annotations

from datetime import UTC, datetime
from ipaddress import IPv4Network

from gureum.env import Env
from gureum.resources import (
    Attachment,
    AttachmentState,
    BlockDevice,
    Instance,
    InstanceState,
    NetworkInterface,
    SecurityGroup,
    Subnet,
    Volume,
    VolumeState,
    Vpc,
)
from gureum.services.ec2.defaults import ensure_defaults
from gureum.services.operation import Cloud
from gureum.store.base import Store, Transaction

BATCH = 1000


async def seed_instances(store: Store, env: Env, cloud: Cloud, count: int) -> list[str]:
    """Put ``count`` running instances, each with a root volume and an interface; returns their ids."""
    await store.transact(lambda tx: ensure_defaults(tx, env, cloud))
    async with store.read() as reader:
        vpc = (await reader.find(Vpc))[0]
        subnet = (await reader.find(Subnet))[0]
        group = (await reader.find(SecurityGroup))[0]
    addresses = [str(address) for address in IPv4Network(vpc.cidr).hosts()][: count + 4][4:]
    ids: list[str] = []
    for first in range(0, count, BATCH):
        batch = addresses[first : first + BATCH]

        async def put(tx: Transaction, batch: list[str] = batch) -> None:
            ids.extend([await _put(tx, env, cloud, vpc, subnet, group, address) for address in batch])

        await store.transact(put)
    return ids


async def _put(
    tx: Transaction, env: Env, cloud: Cloud, vpc: Vpc, subnet: Subnet, group: SecurityGroup, address: str
) -> str:
    now = datetime.now(UTC).replace(microsecond=0)
    id, volume, interface = env.new_id("i"), env.new_id("vol"), env.new_id("eni")
    await tx.put(
        NetworkInterface(
            id=interface,
            account=cloud.account,
            zone=subnet.zone,
            vpc=vpc.id,
            subnet=subnet.id,
            mac=":".join(["0a", *(f"{env.random.getrandbits(8):02x}" for _ in range(5))]),
            private_ip=address,
            groups=(group.id,),
            instance=id,
            attachment=env.new_id("eni-attach"),
            attached=now,
        )
    )
    await tx.put(
        Volume(
            id=volume,
            account=cloud.account,
            zone=subnet.zone,
            state=VolumeState.in_use,
            size_bytes=8 * 2**30,
            created=now,
            attachments=(
                Attachment(
                    instance=id,
                    device="/dev/xvda",
                    state=AttachmentState.attached,
                    attached=now,
                    delete_on_termination=True,
                ),
            ),
        )
    )
    await tx.put(
        Instance(
            id=id,
            account=cloud.account,
            zone=subnet.zone,
            state=InstanceState.running,
            reservation=env.new_id("r"),
            type="t3.micro",
            image="ami-0123456789abcdef0",
            launched=now,
            vpc=vpc.id,
            subnet=subnet.id,
            private_ip=address,
            interfaces=(interface,),
            devices=(BlockDevice(device="/dev/xvda", volume=volume, delete_on_termination=True),),
            tags={"Name": f"seed-{address}"},
        )
    )
    return id
