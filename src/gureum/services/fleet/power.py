"""Hosts' power: how each is switched, and which are off, or could be."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from msgspec.structs import replace

from gureum.control import resting
from gureum.control.fence_agents import INPUT_BYTES_MAX, NAME, Action, sealed, unsafe
from gureum.control.fences import has_manager
from gureum.resources import Host, HostCertificate, HostPower, HostState, ParkState
from gureum.resources.power import WAKE_SECONDS
from gureum.services.fleet import pages
from gureum.services.fleet.faults import invalid, not_found, wrong_state
from gureum.services.fleet.hosts import described, found
from gureum.services.operation import Context, Input, Later, Output, operation

OPTION = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")
OURS = ("action", "nodename")
"""Options that each call has."""
HIDDEN = ("passw", "secret", "community", "token", "apikey", "api_key", "access_key", "hexadecimal_kg")
"""What names of options have in them whose values are no ones to show."""
WAKE_SECONDS_MAX = 3600
ASKED = "somebody asked for it"


@operation("fleet", "ModifyHostPower", write=True)
async def modify_host_power(ctx: Context, input: Input) -> Output:
    """What is not said stays, but another agent has options of its own."""
    host = await found(ctx, input)
    before = await ctx.tx.get(HostPower, host.id)
    if input.get("Remove"):
        if host.park is not None:
            raise wrong_state(f"Host {host.id} is {host.park.state}. Wake it first (WakeHost).")
        if before is not None:
            await ctx.tx.delete(before)
        return {"HostPower": _described(ctx, host, None)}
    agent = input.get("Agent") or (before.agent if before is not None else "")
    if not NAME.fullmatch(agent):
        raise invalid("Agent is the name of a fence agent: fence_ipmilan, fence_redfish, or one of your own.")
    certificates = await ctx.tx.find(HostCertificate, host=host.id)
    remote = any(not each.own for each in certificates) and not await has_manager(ctx.tx, host.id)
    if refusal := ctx.hosts.power.switch.refusal(agent, remote):
        raise invalid(f"Agent: {refusal}.")
    if before is None or before.agent != agent:
        before = HostPower(id=host.id, account=host.account, agent=agent)
    options = _options(input.get("Options"), before.options)
    if shown := next((name for name in options if _hides(name)), ""):
        raise invalid(f"{shown} is to be among the Secrets, which are shown to nobody.")
    secrets = before.sealed
    if (given := input.get("Secrets")) is not None:
        secrets = sealed(ctx.keys, ctx.env, host.id, _options(given, {}))
    elif secrets and options != before.options:
        raise invalid(
            "With other Options say the Secrets again: they are not sent where they were not meant for."
        )
    await _check_alone(ctx, host, agent, options)
    wait = input.get("WakeSeconds")
    if wait is not None and not 1 <= wait <= WAKE_SECONDS_MAX:
        raise invalid(f"WakeSeconds is {wait}, and has to be 1 to {WAKE_SECONDS_MAX}.")
    power = replace(
        before,
        options=options,
        sealed=secrets,
        wake_seconds=before.wake_seconds if wait is None else float(wait),
        doubted=False,
    )
    return {"HostPower": _described(ctx, host, await ctx.tx.put(power))}


async def _check_alone(ctx: Context, host: Host, agent: str, options: Mapping[str, str]) -> None:
    """An agent of the distribution switches what its options say. Those of one's own know the host's name."""
    for other in await ctx.tx.find(HostPower) if agent.startswith("fence_") and options else ():
        if other.id != host.id and (other.agent, other.options) == (agent, options):
            raise invalid(f"With these Options {agent} switches host {other.id}.")


def _hides(option: str) -> bool:
    return any(word in option.lower().replace("-", "_") for word in HIDDEN)


def _options(given: Mapping[str, str] | None, before: Mapping[str, str]) -> dict[str, str]:
    """All of them, if some are given. Raises for what an agent could not be told."""
    if given is None:
        return dict(before)
    for name, value in given.items():
        if not OPTION.fullmatch(name) or name in OURS:
            raise invalid(f"{name[:80]!r} is no option of a fence agent.")
        if unsafe(name):
            raise invalid(f"{name} would let an agent start programs or use files on the manager's machine.")
        if not value.isprintable():
            raise invalid(f"The value of {name} has to be one line.")
    if sum(len(name) + len(value.encode()) + 2 for name, value in given.items()) > INPUT_BYTES_MAX // 2:
        raise invalid("These are too many options.")
    return dict(sorted(given.items()))


@operation("fleet", "DescribeHostPower")
async def describe_host_power(ctx: Context, input: Input) -> Output:
    page = pages.page(input, "DescribeHostPower", "HostIds")
    if ids := input.get("HostIds"):
        hosts = await ctx.tx.get_many(Host, set(ids))
        if absent := sorted(set(ids) - {host.id for host in hosts}):
            raise not_found(absent[0])
    else:
        hosts = await ctx.tx.find(Host, after=page.after, limit=page.size + 1)
    powers = {power.id: power for power in await ctx.tx.get_many(HostPower, {host.id for host in hosts})}
    return {
        "HostPowers": [_described(ctx, host, powers.get(host.id)) for host in hosts[: page.size]],
        "NextToken": None if ids else page.token([host.id for host in hosts]),
    }


def _described(ctx: Context, host: Host, power: HostPower | None) -> dict[str, Any]:
    rest = next((rest for rest in ctx.hosts.power.found if rest.host == host.id), None)
    park = host.park
    rest = rest if park is None else None
    return {
        "HostId": host.id,
        "PowerState": "awake" if park is None else str(park.state),
        "Since": None if park is None else datetime.fromtimestamp(park.since, UTC),
        "Reason": park.reason if park is not None else (rest.why or None) if rest is not None else None,
        "CouldBeParked": rest is not None and not rest.why,
        "CouldBeEmptied": rest is not None and rest.way is not None,
        "Failures": 0 if park is None else park.failures,
        "NextTry": datetime.fromtimestamp(park.again, UTC) if park is not None and park.again else None,
        "Agent": None if power is None else power.agent,
        "Options": {} if power is None else power.options,
        "HasSecrets": power is not None and bool(power.sealed),
        "WakeSeconds": int(WAKE_SECONDS if power is None else power.wake_seconds),
    }


@operation("fleet", "TestHostPower")
async def test_host_power(ctx: Context, input: Input) -> Later:
    """Ask the host's agent whether the host is on: no read of the store waits for that."""
    host = await found(ctx, input)
    power = await ctx.tx.get(HostPower, host.id)
    if power is None:
        raise wrong_state(f"It is not known how host {host.id} is switched (ModifyHostPower).")

    async def ask() -> Output:
        answer = await ctx.hosts.power.switch(power, Action.status)
        return {"On": None if answer.error else answer.on, "Message": answer.error or None}

    return Later(ask)


@operation("fleet", "ParkHost", write=True)
async def park_host(ctx: Context, input: Input) -> Output:
    """What the cloud does by itself with PowerMode automatic, without the rest before."""
    host = await found(ctx, input)
    parks = host.park is not None and host.park.state is not ParkState.waking
    if not parks and (why := await resting.park(ctx.tx, ctx.env, host.id, ASKED)):
        raise wrong_state(f"Host {host.id} cannot be parked: {why}.")
    return {"Host": await described(ctx, await found(ctx, input))}


@operation("fleet", "WakeHost", write=True)
async def wake_host(ctx: Context, input: Input) -> Output:
    host = await found(ctx, input)
    if host.park is None and host.state is not HostState.up:
        raise wrong_state(f"Host {host.id} is {host.state}, and not parked: see to it that it is on.")
    await resting.wake(ctx.tx, ctx.env, host.id, ASKED)
    return {"Host": await described(ctx, await found(ctx, input))}
