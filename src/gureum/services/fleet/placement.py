"""What hosts give away and are labelled with, and why an instance is, or would be, on one of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from gureum.control.filters import Verdict
from gureum.control.fleet import REQUIRES, Fleet, taken, total_cpus, total_memory
from gureum.control.outlook import SURVIVE_MAX
from gureum.control.placement import NoCapacity, explain
from gureum.cpus import BASELINE, HOST, MODELS
from gureum.errors import ApiError
from gureum.resources import BalanceMode, FencePower, FleetSettings, Host, Instance, InstanceState, PowerMode
from gureum.resources.placement import FLEET
from gureum.resources.volume import shared
from gureum.services.ec2 import capacity, placement_groups
from gureum.services.ec2.instance_types import TYPES
from gureum.services.ec2.placement import zones_with_hosts
from gureum.services.ec2.zones import chosen_zone
from gureum.services.fleet.faults import invalid
from gureum.services.operation import Context, Input, Output, operation
from gureum.store.base import Reader

OVERCOMMIT_MAX = 100.0
LABELS_MAX = 50
POWER = {
    "RestSeconds": ("rest_seconds", 60, 7 * 86400),
    "AwakeHosts": ("awake_min", 1, 1000),
    "HeadroomPercent": ("headroom", 0, 90),
}
"""Members, the fields that they are, and their bounds."""


async def settings(reader: Reader) -> FleetSettings:
    return await reader.get(FleetSettings, FLEET) or FleetSettings(id=FLEET)


async def capacity_of(reader: Reader, host: Host) -> dict[str, Any]:
    """The members of a described host that say what it gives away."""
    said = await settings(reader)
    candidate = (await reader.tally(Fleet)).candidate(host.id)
    vcpus, memory = total_cpus(host, said), total_memory(host, said)
    return {
        "Labels": host.labels,
        "CpuOvercommit": host.cpu_overcommit or said.cpu_overcommit,
        "MemoryOvercommit": host.memory_overcommit or said.memory_overcommit,
        "Capacity": {
            "Vcpus": vcpus,
            "FreeVcpus": max(0, candidate.cpus if candidate is not None else vcpus),
            "MemoryBytes": memory,
            "FreeMemoryBytes": max(0, candidate.memory_bytes if candidate is not None else memory),
            "Instances": candidate.instances if candidate is not None else 0,
        },
    }


def labelled(host: Host, input: Input) -> Host:
    """The host with what ModifyHost asks for. Raises for what it cannot be."""
    removed = set(input.get("RemoveLabels") or ())
    added = dict(input.get("Labels") or {})
    if both := sorted(removed & added.keys()):
        raise invalid(f"The label {both[0]} is to be set and removed.")
    labels = {**{key: value for key, value in host.labels.items() if key not in removed}, **added}
    if len(labels) > LABELS_MAX:
        raise invalid(f"A host has at most {LABELS_MAX} labels.")
    changes = _overcommit(input, lowest=0.0)
    return replace(host, labels=dict(sorted(labels.items())), **changes)


def _overcommit(input: Input, lowest: float) -> dict[str, float]:
    found = {}
    for member, field in (("CpuOvercommit", "cpu_overcommit"), ("MemoryOvercommit", "memory_overcommit")):
        value = input.get(member)
        if value is None:
            continue
        if not math.isfinite(value) or not lowest <= value <= OVERCOMMIT_MAX or 0 < value < 0.1:
            none = "0 (as the fleet's settings say) or " if not lowest else ""
            raise invalid(f"{member} is {value}, and has to be {none}0.1 to {OVERCOMMIT_MAX:g}.")
        found[field] = float(value)
    return found


@operation("fleet", "DescribeFleetSettings")
async def describe_fleet_settings(ctx: Context, input: Input) -> Output:
    return {"Settings": _shown(await settings(ctx.tx))}


@operation("fleet", "ModifyFleetSettings", write=True)
async def modify_fleet_settings(ctx: Context, input: Input) -> Output:
    changed = replace(await settings(ctx.tx), **_overcommit(input, lowest=0.1))
    survive = input.get("Survive")
    if survive is not None:
        if not 0 <= survive <= SURVIVE_MAX:
            raise invalid(f"Survive is {survive}, and has to be 0 (no room is kept) to {SURVIVE_MAX}.")
        if survive and not ctx.cloud.recovers:
            raise invalid(
                "Room is kept for what starts elsewhere when its host is lost, and nothing does in a cloud "
                "whose volumes are on the hosts' own disks. With a storage cluster (gureum up --san ceph) it "
                "does."
            )
        changed = replace(changed, survive=survive)
    if mode := input.get("BalanceMode"):
        if mode not in list(BalanceMode):
            raise invalid(f"BalanceMode is one of: {', '.join(BalanceMode)}.")
        # What was asked for once, too, ends with another mode.
        changed = replace(changed, balance=BalanceMode(mode), rebalance=0.0)
    changed = replace(changed, **_power(input))
    if (model := input.get("CpuModel")) is not None:
        changed = replace(changed, cpu_model=await _cpu_model(ctx.tx, model))
    return {"Settings": _shown(await ctx.tx.put(changed))}


def _power(input: Input) -> dict[str, Any]:
    """What is said of when hosts are parked. Raises for what cannot be."""
    found: dict[str, Any] = {}
    if mode := input.get("PowerMode"):
        if mode not in list(PowerMode):
            raise invalid(f"PowerMode is one of: {', '.join(PowerMode)}.")
        found["power"] = PowerMode(mode)
    if fence := input.get("FencePower"):
        if fence not in list(FencePower):
            raise invalid(f"FencePower is one of: {', '.join(FencePower)}.")
        found["fence_power"] = FencePower(fence)
    if (empties := input.get("EmptyHosts")) is not None:
        found["empties"] = empties
    for member, (field, lowest, highest) in POWER.items():
        value = input.get(member)
        if value is not None:
            if not lowest <= value <= highest:
                raise invalid(f"{member} is {value}, and has to be {lowest} to {highest}.")
            found[field] = value / 100 if field == "headroom" else value
    return found


async def _cpu_model(reader: Reader, model: str) -> str:
    """One that could be started with. Raises for others."""
    if model not in (HOST, BASELINE, *MODELS):
        raise invalid(f"CpuModel is one of: {HOST}, {BASELINE}, {', '.join(MODELS)}.")
    offered = [host.cpu_models for host in await reader.find(Host)]
    if model in MODELS and not any(model in models for models in offered):
        found = [each for each in MODELS if any(each in models for models in offered)]
        raise invalid(f"No host offers the CPU model {model}. Some offer: {', '.join(found) or 'none'}.")
    return model


def _shown(said: FleetSettings) -> dict[str, Any]:
    return {
        "CpuOvercommit": said.cpu_overcommit,
        "MemoryOvercommit": said.memory_overcommit,
        "Survive": said.survive,
        "BalanceMode": str(said.balance),
        "CpuModel": said.cpu_model,
        "PowerMode": str(said.power),
        "FencePower": str(said.fence_power),
        "RestSeconds": int(said.rest_seconds),
        "AwakeHosts": said.awake_min,
        "HeadroomPercent": round(100 * said.headroom),
        "EmptyHosts": said.empties,
    }


@operation("fleet", "ExplainPlacement")
async def explain_placement(ctx: Context, input: Input) -> Output:
    instance = await _instance(ctx, input)
    try:
        found = await explain(ctx.tx, instance)
    except NoCapacity as error:
        return {"Hosts": [], "Message": str(error), "HostId": instance.host}
    fits = any(each.fits for each in found)
    kept = await _kept(ctx, instance) if fits else ""
    return {
        "Hosts": [_verdict(each, chosen=each.fits and each is found[0] and not kept) for each in found],
        "HostId": instance.host,
        "Message": kept or (None if fits else "No host can have it."),
    }


async def _kept(ctx: Context, instance: Instance) -> str:
    """Why a launch or start is refused all the same: it takes room that is kept for lost hosts."""
    if not (await settings(ctx.tx)).survive:
        return ""
    try:
        if instance.state is InstanceState.stopped:
            await capacity.require_room(ctx.tx, instance)
        elif not instance.id:
            machine = taken(instance)._replace(restarts=shared(ctx.cloud.pool))
            if (refusal := (await capacity.admit(ctx.tx, machine, 1, ())).refusal) is not None:
                return str(refusal)
    except ApiError as error:
        return str(error)
    return ""


async def _instance(ctx: Context, input: Input) -> Instance:
    """The one that is asked about, or one that could be launched."""
    if id := input.get("InstanceId"):
        if others := sorted(name for name, value in input.items() if value and name != "InstanceId"):
            raise invalid(f"{others[0]} is the instance's own: say InstanceId alone.")
        instance = await ctx.tx.get(Instance, id)
        if instance is None:
            raise ApiError("ResourceNotFoundException", f"There is no instance {id!r}.")
        return instance
    type = input.get("InstanceType")
    if type not in TYPES:
        raise invalid(f"There is no instance type {type!r}. Say InstanceType, or InstanceId.")
    zone = chosen_zone(ctx.cloud, input.get("Zone"), None) or min(await zones_with_hosts(ctx))
    wanted = await placement_groups.asked(ctx, input)
    instance = Instance(
        id="",
        account=ctx.caller.account,
        reservation="",
        type=type,
        image="",
        zone=zone,
        launched=ctx.env.utcnow(),
        vpc="",
        subnet="",
        tags=_tags(input.get("RequiredLabels") or {}),
    )
    return placement_groups.in_group(instance, wanted)


def _tags(labels: Mapping[str, str]) -> dict[str, str]:
    return {f"{REQUIRES}{key}": value for key, value in labels.items()}


def _verdict(verdict: Verdict, *, chosen: bool) -> dict[str, Any]:
    return {
        "HostId": verdict.host,
        "Fits": verdict.fits,
        "Chosen": chosen,
        "Reasons": [{"Filter": name, "Message": why} for name, why in verdict.reasons],
        "Weights": [{"Name": name, "Value": float(value)} for name, value in verdict.weights],
    }
