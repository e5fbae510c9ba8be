"""Machines with managers, and tokens with which others become such."""

from __future__ import annotations

import hmac

from gureum.errors import ApiError
from gureum.resources import HostToken, ManagerMachine
from gureum.services.fleet.faults import invalid
from gureum.services.fleet.joining import TTL_SECONDS, invitation, keep
from gureum.services.operation import Context, Input, Output, operation
from gureum.transport.token import manager_seal

CLOCKS_SECONDS = 60
"""The token may come from another machine."""


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
    return {
        "Managers": [
            {
                "ManagerId": machine.id,
                "AgentsAddress": machine.agents,
                "Endpoint": machine.endpoint,
                "Leads": machine.id == leads(ctx),
            }
            for machine in await ctx.tx.find(ManagerMachine)
        ]
    }


@operation("fleet", "RemoveManager", write=True)
async def remove_manager(ctx: Context, input: Input) -> Output:
    """It may still have the cloud's secrets; and if a manager leads there again, it is back."""
    id = input["ManagerId"]
    machine = await ctx.tx.get(ManagerMachine, id)
    if machine is None:
        raise ApiError("ResourceNotFoundException", f"No machine {id!r} has a manager. See DescribeManagers.")
    if id == leads(ctx):
        raise ApiError(
            "InvalidStateException", f"The manager on {id} leads. Let another lead first: gureum down there."
        )
    await ctx.tx.delete(machine)
    return {}
