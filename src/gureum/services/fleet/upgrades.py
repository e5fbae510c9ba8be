"""Upgrades of hosts, one after the other: begun, looked at, cancelled."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from gureum.control import events, upgrades
from gureum.errors import ApiError
from gureum.resources import Host, HostState, HostUpgrade, Upgrade, UpgradeState, UpgradeStep
from gureum.services.fleet.faults import invalid, wrong_state
from gureum.services.operation import Context, Input, Output, operation

KEPT_MAX = 10
"""How many are remembered."""
WAIT_SECONDS = 600
WAIT_SECONDS_MIN, WAIT_SECONDS_MAX = 10, 86400
AT_ONCE_MAX = 100


@operation("fleet", "StartUpgrade", write=True)
async def start_upgrade(ctx: Context, input: Input) -> Output:
    ids = list(input["HostIds"])
    evacuate, reboots = bool(input.get("Evacuate")), bool(input.get("Reboots"))
    at_once, wait = input.get("AtOnce") or 1, input.get("WaitSeconds") or WAIT_SECONDS
    if not ids or len(set(ids)) != len(ids):
        raise invalid("HostIds names each host that is to be upgraded, once.")
    if reboots and not evacuate:
        raise invalid("Reboots takes Evacuate: a host that restarts ends what runs there.")
    if not 1 <= at_once <= AT_ONCE_MAX:
        raise invalid(f"AtOnce is 1 to {AT_ONCE_MAX}.")
    if not WAIT_SECONDS_MIN <= wait <= WAIT_SECONDS_MAX:
        raise invalid(f"WaitSeconds is {WAIT_SECONDS_MIN} to {WAIT_SECONDS_MAX}.")
    if evacuate and (missing := ctx.hosts.upgrades.hook.missing()):
        raise wrong_state(f"Hosts can't be changed: {missing}.")
    hosts = {host.id: host for host in await ctx.tx.get_many(Host, set(ids))}
    if absent := [id for id in ids if id not in hosts]:
        raise ApiError("ResourceNotFoundException", f"There is no host {absent[0]!r}. See DescribeHosts.")
    if parked := [id for id in ids if hosts[id].park is not None and not hosts[id].emptying]:
        raise wrong_state(f"Host {parked[0]} is parked. Wake it first (WakeHost), or leave it out.")
    if down := [id for id in ids if hosts[id].state is not HostState.up]:
        raise wrong_state(f"Host {down[0]} is {hosts[down[0]].state}. Only hosts that are up are upgraded.")
    known = sorted(await ctx.tx.find(Upgrade), key=_age)
    if running := [each.id for each in known if each.state is UpgradeState.running]:
        raise wrong_state(
            f"Upgrade {running[0]} is under way. Wait for its end, or cancel it (CancelUpgrade)."
        )
    for each in known[: max(0, len(known) - KEPT_MAX + 1)]:
        await ctx.tx.delete(each)
    await events.sweep(ctx.tx)
    upgrade = await ctx.tx.put(
        Upgrade(
            id=ctx.env.new_id("upg"),
            account=ctx.caller.account,
            hosts=tuple(HostUpgrade(host=id) for id in ids),
            evacuate=evacuate,
            reboots=reboots,
            at_once=at_once,
            wait_seconds=float(wait),
            began=ctx.env.now(),
        )
    )
    return {"Upgrade": _item(upgrade)}


@operation("fleet", "DescribeUpgrades")
async def describe_upgrades(ctx: Context, input: Input) -> Output:
    """The newest first. Few are remembered."""
    found = sorted(await ctx.tx.find(Upgrade), key=_age, reverse=True)
    return {"Upgrades": [_item(each) for each in found]}


@operation("fleet", "CancelUpgrade", write=True)
async def cancel_upgrade(ctx: Context, input: Input) -> Output:
    upgrade = await ctx.tx.get(Upgrade, input["UpgradeId"])
    if upgrade is None:
        raise ApiError(
            "ResourceNotFoundException", f"There is no upgrade {input['UpgradeId']!r}. See DescribeUpgrades."
        )
    if upgrade.state is UpgradeState.running:
        upgrade = await upgrades.cancel(ctx.tx, ctx.env, upgrade)
    return {"Upgrade": _item(upgrade)}


def _age(upgrade: Upgrade) -> tuple[bool, float, str]:
    """The one that is under way is the newest, whatever the clock says."""
    return upgrade.state is UpgradeState.running, upgrade.began, upgrade.id


def _item(upgrade: Upgrade) -> dict[str, Any]:
    return {
        "UpgradeId": upgrade.id,
        "State": str(upgrade.state),
        "StateMessage": upgrade.message or None,
        "Evacuate": upgrade.evacuate,
        "Reboots": upgrade.reboots,
        "AtOnce": upgrade.at_once,
        "WaitSeconds": int(upgrade.wait_seconds),
        "StartTime": datetime.fromtimestamp(upgrade.began, UTC),
        "EndTime": datetime.fromtimestamp(upgrade.ended, UTC) if upgrade.ended else None,
        "Hosts": [_host(each) for each in upgrade.hosts],
    }


def _host(each: HostUpgrade) -> dict[str, Any]:
    begun = each.step is not UpgradeStep.waiting
    return {
        "HostId": each.host,
        "Step": str(each.step),
        "Since": datetime.fromtimestamp(each.since, UTC) if begun else None,
        "Message": each.message or None,
    }
