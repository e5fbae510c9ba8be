"""How busy hosts are, and what is, or should be, moved so that they are about equally so."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from msgspec.structs import replace

from gureum.control.balance import Move
from gureum.control.balancer import HostLoad
from gureum.control.emptying import Way
from gureum.resources import BalanceMode
from gureum.services.fleet.placement import settings
from gureum.services.operation import Context, Input, Output, operation


@operation("fleet", "DescribeRecommendations")
async def describe_recommendations(ctx: Context, input: Input) -> Output:
    return await _described(ctx)


@operation("fleet", "Rebalance", write=True)
async def rebalance(ctx: Context, input: Input) -> Output:
    """It goes on by itself, also with another manager, until there is nothing more to be moved."""
    said = await settings(ctx.tx)
    if said.balance is not BalanceMode.automatic and not said.rebalance:
        await ctx.tx.put(replace(said, rebalance=ctx.env.now()))
    return await _described(ctx)


async def _described(ctx: Context) -> dict[str, Any]:
    said, found = await settings(ctx.tx), ctx.hosts.balance()
    return {
        "BalanceMode": str(said.balance),
        "Rebalancing": said.rebalance > 0,
        "AssessedAt": datetime.fromtimestamp(found.at, UTC) if found.at else None,
        "ImbalancePercent": _percent(found.imbalance),
        "HeldBecause": found.held or None,
        "HostLoads": [_host(host) for host in sorted(found.hosts, key=lambda host: host.host)],
        "Recommendations": [_recommendation(move) for move in found.moves],
        "HostsToEmpty": [_to_empty(rest.way) for rest in ctx.hosts.power.found if rest.way is not None],
    }


def _to_empty(way: Way) -> dict[str, Any]:
    return {
        "HostId": way.host,
        "Reason": way.reason,
        "CopyBytes": way.copy_bytes,
        "CopySeconds": round(way.seconds, 1),
        "PaysBackSeconds": int(way.pays_back_seconds),
        "Moves": [
            {
                "InstanceId": move.instance,
                "SourceHostId": way.host,
                "TargetHostId": move.target,
                "CopyBytes": move.cost.bytes,
                "CopySeconds": round(move.cost.seconds, 1),
            }
            for move in way.moves
        ],
    }


def _host(load: HostLoad) -> dict[str, Any]:
    if not load.known:
        return {"HostId": load.host, "Measured": False}
    return {
        "HostId": load.host,
        "Measured": True,
        "CpuPercent": _percent(load.level.cpu),
        "MemoryPercent": _percent(load.level.memory),
        "CpuPressurePercent": _percent(load.pressure.cpu),
        "MemoryPressurePercent": _percent(load.pressure.memory),
        "HotSeconds": int(load.hot_seconds) if load.hot else None,
        "Reason": load.stays or None,
    }


def _recommendation(move: Move) -> dict[str, Any]:
    return {
        "InstanceId": move.instance,
        "SourceHostId": move.source,
        "TargetHostId": move.target,
        "Reason": move.reason,
        "Gain": round(move.gain, 2),
        "CopyBytes": move.cost.bytes,
        "CopySeconds": round(move.cost.seconds, 1),
        "PaysBackSeconds": int(move.pays_back_seconds),
    }


def _percent(share: float) -> float:
    return round(100 * share, 1)
