"""Machines with managers, and tokens with which others become such."""

from __future__ import annotations

import hmac
from datetime import UTC, datetime

from msgspec.structs import replace

from gureum.control import events
from gureum.errors import ApiError
from gureum.resources import (
    Host,
    HostCertificate,
    HostPower,
    HostState,
    HostToken,
    ManagerMachine,
    Severity,
)
from gureum.services.fleet.faults import invalid
from gureum.services.fleet.joining import TTL_SECONDS, invitation, keep
from gureum.services.operation import Context, Input, Output, operation
from gureum.transport.token import manager_seal

CLOCKS_SECONDS = 60
"""The token may come from another machine."""
SILENT_SECONDS = 15.0
"""After which one that stands by is silent. It says so every 3 s, but not while another takes over."""


def leads(ctx: Context) -> str:
    """The machine whose manager leads: this one, as it answers."""
    return ctx.hosts.joining.manager if ctx.hosts.joining is not None else ""


@operation("fleet", "CreateManagerToken", write=True)
async def create_manager_token(ctx: Context, input: Input) -> Output:
    joining = invitation(ctx)
    if not joining.manager:
        raise ApiError(
            "NotListeningException",
            "This cloud's state is in a file on its machine, where other managers do not reach it. That is "
            "chosen when a cloud is made: gureum up --store postgresql://USER@HOST/DATABASE.",
        )
    id, expires, seal = input["TokenId"], input["Expires"], input["Seal"]
    if not hmac.compare_digest(manager_seal(ctx.keys.sign, id, expires).encode(), seal.encode()):
        raise invalid(
            "Seal is none of this cloud's master key. Root of a machine with managers makes such tokens: "
            "gureum manager token."
        )
    if not ctx.env.now() < expires <= ctx.env.now() + TTL_SECONDS + CLOCKS_SECONDS:
        raise invalid(f"Expires has to be within {TTL_SECONDS} seconds from now.")
    await keep(
        ctx,
        HostToken(id=id, account=ctx.caller.account, zone="", expires=expires, manager=True, seal=seal),
    )
    return {"Fingerprint": joining.fingerprint, "Url": joining.url}


@operation("fleet", "DescribeManagers")
async def describe_managers(ctx: Context, input: Input) -> Output:
    return {"Managers": [described(ctx, machine) for machine in await ctx.tx.find(ManagerMachine)]}


def described(ctx: Context, machine: ManagerMachine) -> Output:
    now = ctx.env.now()
    seen = ctx.hosts.joining.seen.get(machine.id) if ctx.hosts.joining is not None else None
    if machine.revoked:
        state, seen = "revoked", None
    elif machine.id == leads(ctx):
        state, seen = "leading", now
    else:
        state = "standing-by" if seen is not None and now - seen < SILENT_SECONDS else "silent"
    return {
        "ManagerId": machine.id,
        "AgentsAddress": machine.agents,
        "Endpoint": machine.endpoint,
        "Leads": machine.id == leads(ctx),
        "State": state,
        "LastSeen": datetime.fromtimestamp(seen, UTC) if seen is not None else None,
    }


async def one_that_stands_by(ctx: Context, id: str) -> ManagerMachine:
    machine = await ctx.tx.get(ManagerMachine, id)
    if machine is None:
        raise ApiError(
            "ResourceNotFoundException",
            f"No machine {id!r} has a manager. See DescribeManagers. One that was removed can be revoked all "
            "the same: RevokeManager with Force (gureum manager revoke --force).",
        )
    if id == leads(ctx):
        raise ApiError(
            "InvalidStateException",
            f"The manager on {id} leads. Let another lead first: gureum down there, or the end of its power.",
        )
    return machine


@operation("fleet", "RevokeManager", write=True)
async def revoke_manager(ctx: Context, input: Input) -> Output:
    """It stays known as such, as the store refuses it by that. Tokens that are out may be of its making."""
    id = input["ManagerId"]
    if input.get("Force") and await ctx.tx.get(ManagerMachine, id) is None:
        # Removed, or not known to a store that was put back: no key of it is accepted, nor does it lead.
        machine = ManagerMachine(id=id, account=ctx.caller.account, agents="", endpoint="")
    else:
        machine = await one_that_stands_by(ctx, id)
    if not machine.revoked:
        machine = await ctx.tx.put(replace(machine, revoked=True))
        text = f"machine {machine.id} was revoked as one with managers"
        await events.record(ctx.tx, ctx.env, "ManagerRevoked", text, Severity.warning)
    # Each time: with the access key that it had it can make others, until that is changed, too.
    for token in await ctx.tx.find(HostToken):
        await ctx.tx.delete(token)
    return {"Manager": described(ctx, machine), **await concerned(ctx)}


async def concerned(ctx: Context) -> Output:
    """Hosts for which there is something to do: see the model."""
    hosts = await ctx.tx.find(Host)
    now = ctx.env.now()
    keyless = {
        each.host
        for each in await ctx.tx.find(HostCertificate)
        if not (each.key or each.revoked) and each.expires > now
    }
    off = {host.id for host in hosts if host.park is not None and not host.emptying}
    return {
        "HostsAway": [host.id for host in hosts if host.state is not HostState.up or host.id in off],
        "HostsWithoutKey": sorted(keyless),
        "HostsWithSecrets": [each.id for each in await ctx.tx.find(HostPower) if each.sealed],
    }


@operation("fleet", "RemoveManager", write=True)
async def remove_manager(ctx: Context, input: Input) -> Output:
    """It may still have the cloud's secrets. With others left hosts do not follow it any more."""
    machine = await one_that_stands_by(ctx, input["ManagerId"])
    if machine.revoked and machine.seen:
        raise ApiError(
            "InvalidStateException",
            f"Machine {machine.id} is revoked, and the store refuses it as long as it is known as that. It "
            "stays in the list.",
        )
    if machine.revoked and not input.get("Force"):
        # A name that was mistyped, or one that was removed before: nobody knows which but who calls.
        raise ApiError(
            "InvalidStateException",
            f"{machine.id} was revoked by its name alone, and nothing is known of such a machine. If it was "
            f"mistyped: RemoveManager with Force (gureum manager remove {machine.id} --force). One that was "
            "removed before it was revoked could lead again after that.",
        )
    await ctx.tx.delete(machine)
    if machine.revoked:
        text = f"machine {machine.id}, of which nothing is known, is not revoked any more"
        await events.record(ctx.tx, ctx.env, "ManagerForgotten", text, Severity.warning)
    return {}
