"""Hosts: what there is, draining, and the end of one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec.structs import replace

from gureum.cli.config import FIRST_MACHINE
from gureum.control import events, migrations, resting
from gureum.control.fences import begun
from gureum.control.move import CannotMove
from gureum.resources import (
    Host,
    HostCertificate,
    HostPower,
    HostState,
    Instance,
    InstanceMigration,
    InstanceState,
    ManagerMachine,
    NatGateway,
    NatGatewayState,
    Severity,
    Snapshot,
    Volume,
)
from gureum.resources.migration import UNDER_WAY
from gureum.resources.volume import shared
from gureum.services.ec2.capacity import anywhere
from gureum.services.fleet import pages, placement, survival
from gureum.services.fleet.faults import not_found, shown, wrong_state
from gureum.services.fleet.losses import NAT_ENDED, give_up, hand_over
from gureum.services.operation import Context, Input, Output, operation
from gureum.store.base import Reader


class Holdings(msgspec.Struct, frozen=True):
    """Ids of what is on a host, and can't be elsewhere: nothing of shared pools but running instances."""

    instances: list[str]
    volumes: list[str]
    snapshots: list[str]
    gateways: list[str]

    @classmethod
    async def of(cls, reader: Reader, host: str) -> Holdings:
        return cls(
            [
                instance.id
                for instance in await reader.find(Instance, host=host)
                if instance.state is not InstanceState.terminated and not await movable(reader, instance)
            ],
            [each.id for each in await reader.find(Volume, host=host) if each.bound],
            [each.id for each in await reader.find(Snapshot, host=host) if not shared(each.pool)],
            [
                gateway.id
                for gateway in await reader.find(NatGateway, host=host)
                if gateway.state is not NatGatewayState.deleted
            ],
        )


async def movable(reader: Reader, instance: Instance) -> bool:
    """Whether the next start may be on another host."""
    stopped = instance.state is InstanceState.stopped
    return stopped and anywhere(await reader.find(Volume, instances=instance.id))


async def found(ctx: Context, input: Input) -> Host:
    host = await ctx.tx.get(Host, input["HostId"])
    if host is None:
        raise not_found(input["HostId"])
    return host


async def described(ctx: Context, host: Host) -> dict[str, Any]:
    on = await Holdings.of(ctx.tx, host.id)
    certificates = [each for each in await ctx.tx.find(HostCertificate, host=host.id) if not each.own]
    newest = max(certificates, key=lambda certificate: certificate.expires, default=None)
    return {
        "HostId": host.id,
        "State": str(host.state),
        "StateReason": _reason(host) or None,
        "PowerState": "awake" if host.park is None else str(host.park.state),
        "Draining": host.draining,
        "Zone": host.zone or None,
        "Number": host.number,
        "Address": host.address or None,
        "Mtu": host.uplink_mtu,
        "Remote": newest is not None,
        "Cpus": host.cpus,
        "MemoryBytes": host.memory_bytes,
        "PoolBytes": host.pool_bytes,
        "PoolFreeBytes": host.pool_free_bytes,
        "Version": host.gureum_version or None,
        "Accelerator": host.accelerator or None,
        "Cpu": host.cpu or None,
        "CpuModels": list(host.cpu_models),
        "InstanceIds": on.instances,
        "VolumeIds": on.volumes,
        "SnapshotIds": on.snapshots,
        "NatGatewayIds": on.gateways,
        "RunningInstanceIds": [
            each.id for each in await ctx.tx.find(Instance, host=host.id, state=str(InstanceState.running))
        ],
        "StayingInstances": await _staying(ctx, host) if host.draining else [],
        "MigratingInstanceIds": await _migrating(ctx.tx, host.id),
        "Problems": list(ctx.hosts.problems(host.id)),
        **await placement.capacity_of(ctx.tx, host),
        "Certificate": None
        if newest is None
        else {
            "Serial": newest.id,
            "Expires": datetime.fromtimestamp(newest.expires, UTC),
            "Revoked": newest.revoked,
        },
    }


async def _staying(ctx: Context, host: Host) -> list[dict[str, str]]:
    """Running instances that can't leave the host now, and why."""
    staying = []
    for instance in await ctx.tx.find(Instance, host=host.id, state=str(InstanceState.running)):
        if instance.migration:
            continue
        try:
            await migrations.require_movable(ctx.tx, instance)
            await migrations.require_destination(ctx.tx, instance)
        except CannotMove as error:
            staying.append({"InstanceId": instance.id, "Reason": str(error)})
    return staying


async def _migrating(reader: Reader, host: str) -> list[str]:
    states = [str(state) for state in UNDER_WAY]
    leave = await reader.find(InstanceMigration, source=host, state=states)
    come = await reader.find(InstanceMigration, destination=host, state=states)
    return sorted({migration.instance for migration in (*leave, *come)})


def _reason(host: Host) -> str:
    """Why it is not up, or takes nothing, in words; "" if that is not known, or it does."""
    if host.fence is not None:
        by = f"host {host.fence.by} fences it" if host.fence.by else "no host can fence it now"
        gone = "nothing of it runs; it takes instances again when it is back and says so"
        done = gone if host.state is HostState.fenced else by
        return f"given up at {_time(host.fence.began)} ({host.fence.reason}): {done}"
    if host.park is not None:
        return f"{host.park.state} since {_time(host.park.since)}: {host.park.reason}"
    if host.state is HostState.down and host.silent:
        watched = f"; host {host.watcher} looks whether it lives" if host.watcher else ""
        return f"not heard of since {_time(host.silent)}{watched}"
    if host.state is HostState.up and host.unfit:
        return f"it {host.unfit}: nothing new is put there"
    return ""


def _time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


@operation("fleet", "DescribeHosts")
async def describe_hosts(ctx: Context, input: Input) -> Output:
    page = pages.page(input, "DescribeHosts", "HostIds")
    if ids := input.get("HostIds"):
        hosts = await ctx.tx.get_many(Host, set(ids))
        if absent := sorted(set(ids) - {host.id for host in hosts}):
            raise not_found(absent[0])
        return {"Hosts": [await described(ctx, host) for host in hosts]}
    hosts = await ctx.tx.find(Host, after=page.after, limit=page.size + 1)
    return {
        "Hosts": [await described(ctx, host) for host in hosts[: page.size]],
        "NextToken": page.token([host.id for host in hosts]),
    }


@operation("fleet", "ModifyHost", write=True)
async def modify_host(ctx: Context, input: Input) -> Output:
    """What is on it stays, also if there is more of it than the host gives away now."""
    host = await found(ctx, input)
    changed = placement.labelled(host, input)
    if changed != host:
        changed = await ctx.tx.put(changed)
    return {"Host": await described(ctx, changed)}


@operation("fleet", "DrainHost", write=True)
async def drain_host(ctx: Context, input: Input) -> Output:
    host = await found(ctx, input)
    if not host.draining:
        host = await ctx.tx.put(replace(host, draining=True))
        text = f"host {host.id} is being drained: it takes nothing new, and what runs there goes to others"
        await events.record(ctx.tx, ctx.env, "HostDraining", text, host=host.id)
    return {"Host": await described(ctx, host), "Message": await survival.room_used(ctx.tx)}


@operation("fleet", "ActivateHost", write=True)
async def activate_host(ctx: Context, input: Input) -> Output:
    host = await found(ctx, input)
    certificates = await ctx.tx.find(HostCertificate, host=host.id)
    if certificates and all(certificate.revoked for certificate in certificates):
        raise wrong_state(
            f"Host {host.id} is revoked. Let its machine join again with a new token (CreateHostToken)."
        )
    if host.emptying:
        host = await resting.wake(ctx.tx, ctx.env, host.id, "somebody activated it") or host
    if host.draining:
        host = await ctx.tx.put(replace(host, draining=False))
        text = f"host {host.id} takes instances again, as somebody wanted"
        await events.record(ctx.tx, ctx.env, "HostActivated", text, host=host.id)
    return {"Host": await described(ctx, host)}


@operation("fleet", "RemoveHost", write=True)
async def remove_host(ctx: Context, input: Input) -> Output:
    """What is in its own pool has to be deleted by its owner, or moved to another. What is in shared
    pools is looked after by other hosts from then on.

    Of a host that is down this never ends: there, with ``Force``, it is given up.
    """
    host = await found(ctx, input)
    certificates = await ctx.tx.find(HostCertificate, host=host.id)
    if not host.draining:
        raise wrong_state(f"Host {host.id} still takes instances. Drain it first (DrainHost).")
    if input.get("Force"):
        if host.state is HostState.up:
            raise wrong_state(
                f"Host {host.id} is up: what is there can be ended in order. Force is for one that is lost."
            )
        await _require_ended(ctx, host)
        await give_up(ctx.tx, host, ctx.env.utcnow())
        await _forget(ctx, host, certificates)
        return {}
    on = await Holdings.of(ctx.tx, host.id)
    steps = [
        ("terminate", "instances", on.instances),
        ("delete, or move to another pool (MoveVolume),", "volumes", on.volumes),
        ("delete", "snapshots", on.snapshots),
        ("delete", "NAT gateways", on.gateways),
    ]
    if left := [id for _, _, ids in steps for id in ids]:
        todo = "; ".join(f"{verb} the {what} {shown(ids)}" for verb, what, ids in steps if ids)
        raise wrong_state(
            f"Host {host.id} is not empty, and what is on its own disk goes nowhere by itself: {todo}. "
            "Then remove it; or, if it is down for good, remove it with Force, which gives all that up.",
            left,
        )
    if all(each.own for each in certificates) and host.state is HostState.up:
        raise wrong_state(
            f"Host {host.id} is part of the cloud's own machine, and its agent runs. It goes with fewer "
            "hosts there: gureum down, then gureum up --hosts N."
        )
    await _forget(ctx, host, certificates)
    return {}


async def _require_ended(ctx: Context, host: Host) -> None:
    """What ran there can start elsewhere from then on, and nobody would tell a host that lives to end it."""
    if not ctx.cloud.recovers or not host.fenceable or host.state is HostState.fenced:
        return
    ended = (InstanceState.stopped, InstanceState.terminated)
    found = await ctx.tx.find(Instance, host=host.id)
    left = [each.id for each in found if each.state not in ended]
    left += [each.id for each in await ctx.tx.find(NatGateway, host=host.id) if each.state not in NAT_ENDED]
    if left:
        todo = (
            "That is under way: remove it when it is fenced."
            if host.state is HostState.fencing
            else "Fence it first (FenceHost), and remove it when it is fenced."
        )
        raise wrong_state(f"Host {host.id} may live, and run {shown(left)}. {todo}", left)


async def _forget(ctx: Context, host: Host, certificates: Sequence[HostCertificate]) -> None:
    await hand_over(ctx.tx, host)
    if (power := await ctx.tx.get(HostPower, host.id)) is not None:
        await ctx.tx.delete(power)
    for certificate in certificates:
        await ctx.tx.delete(certificate)
    await ctx.tx.delete(host)


@operation("fleet", "FenceHost", write=True)
async def fence_host(ctx: Context, input: Input) -> Output:
    """What the cloud does by itself, unless most hosts fell silent at once."""
    host = await found(ctx, input)
    if not ctx.cloud.recovers or not host.fenceable:
        raise wrong_state(
            f"Host {host.id} cannot be fenced: that takes a pool that hosts share. If it is lost for good, "
            "drain it (DrainHost) and remove it with Force (RemoveHost)."
        )
    if host.state is HostState.up:
        raise wrong_state(
            f"Host {host.id} is up: what runs there can be ended in order. Drain it (DrainHost) and stop its "
            "instances."
        )
    if host.park is not None:
        raise wrong_state(f"Host {host.id} is {host.park.state}: nothing runs there.")
    if host.state is HostState.down:
        host = await ctx.tx.put(begun(host, ctx.env, "somebody asked for it"))
        text = f"host {host.id} is given up, since somebody asked for it"
        await events.record(ctx.tx, ctx.env, "HostFencing", text, Severity.warning, host=host.id)
    return {"Host": await described(ctx, host)}


@operation("fleet", "RevokeHost", write=True)
async def revoke_host(ctx: Context, input: Input) -> Output:
    """Its address is forgotten, so that no other host takes packets from it any more."""
    host = await found(ctx, input)
    certificates = await ctx.tx.find(HostCertificate, host=host.id)
    first = await ctx.tx.get(ManagerMachine, FIRST_MACHINE)
    if all(each.own for each in certificates) and not (certificates and first is not None and first.revoked):
        raise wrong_state(
            f"Host {host.id} is part of the cloud's own machine: it has no certificate to revoke."
        )
    for certificate in certificates:
        if not certificate.revoked:
            await ctx.tx.put(replace(certificate, revoked=True))
    state = host.state if host.fence is not None else HostState.down
    silent = host.silent
    if ctx.cloud.recovers and host.state is HostState.up:
        # It is heard no more from now on: what runs there is recovered as from any other that is silent.
        silent = ctx.env.now()
        text = f"host {host.id} was revoked, and is not heard any more"
        await events.record(ctx.tx, ctx.env, "HostDown", text, Severity.warning, host=host.id)
    host = await ctx.tx.put(
        replace(
            host,
            state=state,
            silent=silent,
            draining=True,
            park=None if host.emptying else host.park,
            address="",
            wireguard_key="",
        )
    )
    return {"Host": await described(ctx, host)}
