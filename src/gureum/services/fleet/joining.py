"""Tokens with which other machines join the cloud."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

from gureum.errors import ApiError
from gureum.resources import Host, HostToken
from gureum.services.fleet.faults import invalid
from gureum.services.operation import Context, Input, Joining, Output, operation
from gureum.transport import token

TTL_SECONDS = 3600


async def emptiest_zone(ctx: Context) -> str:
    count = Counter(host.zone for host in await ctx.tx.find(Host))
    return min(ctx.cloud.zones, key=lambda zone: (count[zone], zone))


def invitation(ctx: Context) -> Joining:
    """How other machines join. Raises ApiError if they can't."""
    joining = ctx.hosts.joining
    if joining is None:
        raise ApiError(
            "NotListeningException",
            "This cloud takes no hosts of other machines. Start it so that they reach it: "
            "gureum down; gureum up --agents-address ADDRESS:PORT.",
        )
    return joining


async def keep(ctx: Context, token: HostToken) -> None:
    for old in await ctx.tx.find(HostToken):
        if old.expires <= ctx.env.now():
            await ctx.tx.delete(old)
    await ctx.tx.put(token)


async def new_token(ctx: Context, input: Input, joining: Joining, zone: str) -> Output:
    """Kept by its hash, and told once."""
    ttl = input.get("TtlSeconds") or TTL_SECONDS
    if not 60 <= ttl <= 604800:
        raise invalid("TtlSeconds is 60 (a minute) to 604800 (a week).")
    secret = bytes.fromhex(ctx.env.token(2 * token.SECRET_BYTES))
    id = token.identify(secret)
    expires = round(ctx.env.now() + ttl)
    await keep(ctx, HostToken(id=id, account=ctx.caller.account, zone=zone, expires=expires))
    return {
        "Token": token.write(joining.fingerprint, secret),
        "Expires": datetime.fromtimestamp(expires, UTC),
        "Url": joining.url,
    }


@operation("fleet", "CreateHostToken", write=True)
async def create_host_token(ctx: Context, input: Input) -> Output:
    joining = invitation(ctx)
    zone = input.get("Zone") or await emptiest_zone(ctx)
    if zone not in ctx.cloud.zones:
        raise invalid(f"There is no zone {zone!r}. Choose from: {', '.join(ctx.cloud.zones)}.")
    return {"Zone": zone, **await new_token(ctx, input, joining, zone)}
