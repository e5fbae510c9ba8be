"""What there is room for: for what lost hosts would leave, and for more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gureum.breath import breathe
from gureum.control import recovery, survival
from gureum.control.fleet import EVERY_ZONE, Taken
from gureum.control.outlook import Outlook, Shortfall
from gureum.control.survival import named, outlooks, shortfalls, survivable
from gureum.resources import Host, Instance, RecoveryPolicy
from gureum.resources.volume import shared
from gureum.services.ec2 import capacity
from gureum.services.ec2.instance_types import TYPES
from gureum.services.ec2.placement import zones_with_hosts
from gureum.services.ec2.zones import chosen_zone
from gureum.services.fleet.faults import invalid, not_found, wrong_state
from gureum.services.fleet.placement import settings
from gureum.services.operation import Context, Input, Output, operation
from gureum.store.base import Reader

LOSSES_MAX = 100
"""Hosts of a domain that are shown."""
HOMELESS_MAX = 100
"""Instances of a host's loss that are shown."""
TYPES_MAX = 20
COUNT_MAX = 1000
"""Of each type as many are counted at most."""
STARTS, WAITS, STOPS, ENDS, NO_ROOM = "restarts", "waits", "stops", "terminates", "no-room"


@operation("fleet", "DescribeSurvival")
async def describe_survival(ctx: Context, input: Input) -> Output:
    survive = (await settings(ctx.tx)).survive
    found = await outlooks(ctx.tx, kept=True) if ctx.cloud.recovers else {}
    domains = [await _domain(domain, each, survive) for domain, each in found.items()]
    return {"Survive": survive, "Recovers": ctx.cloud.recovers, "Domains": domains}


async def _domain(domain: str, outlook: Outlook, survive: int) -> dict[str, Any]:
    most = await survivable(outlook)
    short = await survival.short(outlook, max(1, survive))
    losses = await shortfalls(outlook, 1)
    message = None if short is None else f"{short}."
    if message is None and most < max(1, survive):
        message = f"No host of {named(domain)} takes instances now."
    return {
        "Zone": domain or None,
        "Hosts": len(outlook.usable),
        "Survivable": max(0, most),
        "Holds": most >= survive,
        "Message": message,
        "Losses": [_loss(each) for each in losses[:LOSSES_MAX] if each.lost],
        "LossCount": len(losses),
    }


def _loss(short: Shortfall) -> dict[str, Any]:
    return {
        "HostId": short.lost[0],
        "Count": len(short.homeless),
        "Homeless": [
            {"InstanceId": each.id, "InstanceType": each.type} for each in short.homeless[:HOMELESS_MAX]
        ],
    }


async def room_used(reader: Reader) -> str | None:
    """What to say of a change that is done though the loss of hosts is not survived after it."""
    survive = (await settings(reader)).survive
    if not survive:
        return None
    for outlook in (await outlooks(reader)).values():
        if (short := outlook.short(survive)) is not None:
            return f"This takes room that is kept for lost hosts: {short}."
    return None


@operation("fleet", "DescribeLaunchCapacity")
async def describe_launch_capacity(ctx: Context, input: Input) -> Output:
    """As RunInstances would be granted, for each type alone, with disks where new ones are made."""
    types = list(dict.fromkeys(input["InstanceTypes"]))
    if unknown := [type for type in types if type not in TYPES]:
        raise invalid(f"There is no instance type {unknown[0]!r}. See DescribeInstanceTypes of ec2.")
    if not 1 <= len(types) <= TYPES_MAX:
        raise invalid(f"InstanceTypes are 1 to {TYPES_MAX}.")
    zone = chosen_zone(ctx.cloud, input.get("Zone"), None)
    found = []
    for where in [zone] if zone else sorted(await zones_with_hosts(ctx)):
        for type in types:
            await breathe()
            machine = Taken(
                id="",
                type=type,
                zone=where,
                host=None,
                account=ctx.caller.account,
                restarts=shared(ctx.cloud.pool),
            )
            admission = await capacity.admit(ctx.tx, machine, COUNT_MAX, ())
            found.append(
                {
                    "Zone": where,
                    "InstanceType": type,
                    "Count": len(admission.partitions),
                    "Message": None if admission.refusal is None else admission.refusal.message,
                }
            )
    return {"Capacities": found}


@operation("fleet", "ExplainHostLoss")
async def explain_host_loss(ctx: Context, input: Input) -> Output:
    """Of what runs on the host or is to, in the order in which it would be started elsewhere."""
    id = input["HostId"]
    host = await ctx.tx.get(Host, id)
    if host is None:
        raise not_found(id)
    if not ctx.cloud.recovers:
        raise wrong_state(
            f"What runs on host {id} would wait for it: nothing starts elsewhere in a cloud whose volumes "
            "are on the hosts' own disks. With a storage cluster (gureum up --san ceph) it does."
        )
    said: dict[str, tuple[str, str]] = {}
    instances = await ctx.tx.find(Instance, host=id, state=[str(state) for state in recovery.RUNS])
    for instance in instances:
        said[instance.id] = await _otherwise(ctx.tx, instance)
    found = await outlooks(ctx.tx)
    outlook = found[EVERY_ZONE if EVERY_ZONE in found else host.zone]
    # Of a host that is lost already, or drained, it is looked at in any case.
    moves = {machine.id: to for machine, to in outlook.moves([id] if host.schedulable else [])}
    return {
        "Instances": [_fate(each, said[each.id], moves) for each in sorted(instances, key=recovery.order)]
    }


async def _otherwise(reader: Reader, instance: Instance) -> tuple[str, str]:
    """What becomes of it if it is not started elsewhere, and why; "" if it is."""
    if why := await recovery.waits(reader, instance):
        return WAITS, why
    if instance.recovery.policy is RecoveryPolicy.terminate and not instance.disable_api_termination:
        return ENDS, "its recovery says so"
    if instance.recovery.policy is not RecoveryPolicy.restart:
        return STOPS, "its recovery says so"
    return "", ""


def _fate(instance: Instance, otherwise: tuple[str, str], moves: Mapping[str, str | None]) -> dict[str, Any]:
    outcome, why = otherwise
    to = None if outcome else moves.get(instance.id)
    if not outcome:
        outcome = STARTS if to is not None else NO_ROOM
    return {
        "InstanceId": instance.id,
        "InstanceType": instance.type,
        "Outcome": outcome,
        "HostId": to,
        "Message": why or None,
    }
