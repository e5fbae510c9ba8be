"""Pools: what there are, and whether what is in them is what the cloud says. Nothing in the store changes."""

from __future__ import annotations

from collections.abc import Sequence

from gureum.control.shares import shared_pools
from gureum.errors import ApiError, TransportError
from gureum.hostspec import LOCAL
from gureum.resources.volume import shared
from gureum.san.ceph.audit import Action, Finding
from gureum.services.ec2 import pagination
from gureum.services.fleet.faults import invalid
from gureum.services.operation import Context, Input, Output, operation

FINDINGS_MAX = 1000


@operation("fleet", "DescribePools")
async def describe_pools(ctx: Context, input: Input) -> Output:
    """Each with a host that can be asked about it. Local ones: those of hosts that are connected."""
    pools = [
        {"PoolName": name, "HostId": host, "Shared": shared(name)}
        for name in (LOCAL, *shared_pools(ctx.cloud))
        for host in ctx.hosts.pools.hosts(name)
    ]
    return {"Pools": pools}


@operation("fleet", "CheckPool")
async def check_pool(ctx: Context, input: Input) -> Output:
    pool, host = _asked(ctx, input)
    token = input.get("NextToken")
    after = pagination.decode(token, "CheckPool") if token else ""
    try:
        findings, until = await ctx.hosts.pools.check(pool, host, after)
    except TransportError as error:
        raise _unreachable(pool, error) from error
    output = {"Findings": _shown(findings)}
    return {**output, "NextToken": pagination.encode(until, "CheckPool")} if until else output


@operation("fleet", "RepairPool")
async def repair_pool(ctx: Context, input: Input) -> Output:
    """Only what CheckPool found and a second look finds, too."""
    pool, host = _asked(ctx, input)
    ids = set(input["FindingIds"])
    if len(ids) > FINDINGS_MAX:
        raise invalid(f"At most {FINDINGS_MAX} findings at once.")
    try:
        return {"Repaired": _shown(await ctx.hosts.pools.mend(pool, host, ids))}
    except TransportError as error:
        raise _unreachable(pool, error) from error


def _asked(ctx: Context, input: Input) -> tuple[str, str]:
    pool = input["PoolName"]
    if pool not in (LOCAL, *shared_pools(ctx.cloud)):
        raise invalid(f"There is no pool {pool!r}. See DescribePools.")
    hosts = ctx.hosts.pools.hosts(pool)
    host = input.get("HostId") or (hosts[0] if hosts and (shared(pool) or len(hosts) == 1) else "")
    if not host:
        raise invalid(f"Each host has a pool {pool!r} of its own: say which with HostId.")
    return pool, host


def _unreachable(pool: str, error: TransportError) -> ApiError:
    return ApiError(
        "PoolUnavailableException", f"The pool {pool!r} cannot be looked at now: {error}", status=503
    )


def _shown(findings: Sequence[Finding]) -> list[dict[str, object]]:
    return [
        {
            "FindingId": each.key if each.action is not Action.none else None,
            "ResourceId": each.id or None,
            "Problem": not each.note,
            "Message": each.line,
            "Repair": str(each.action) if each.action is not Action.none else None,
        }
        for each in findings
    ]
