"""Volumes on their way from one pool to another: begun, looked at, cancelled."""

from __future__ import annotations

from typing import Any

from gureum.control.shares import shared_pools
from gureum.errors import ApiError
from gureum.hostspec import LOCAL
from gureum.resources import Host, Volume, VolumeState
from gureum.services.ec2 import volume_moves
from gureum.services.fleet import pages
from gureum.services.fleet.faults import invalid
from gureum.services.operation import Context, Input, Output, operation


@operation("fleet", "DescribeVolumeMoves")
async def describe_volume_moves(ctx: Context, input: Input) -> Output:
    """The latest of each volume that was ever moved."""
    page = pages.page(input, "DescribeVolumeMoves", "VolumeIds")
    if ids := input.get("VolumeIds"):
        return {"VolumeMoves": [_item(ctx, await _volume(ctx, id)) for id in ids]}
    # No index has the moves: they are few, and so are the calls.
    every = [each for each in await ctx.tx.find(Volume) if each.move is not None and each.id > page.after]
    volumes = sorted(every, key=lambda volume: volume.id)
    return {
        "VolumeMoves": [_item(ctx, volume) for volume in volumes[: page.size]],
        "NextToken": page.token([volume.id for volume in volumes]),
    }


@operation("fleet", "MoveVolume", write=True)
async def move_volume(ctx: Context, input: Input) -> Output:
    volume, target, host = await _volume(ctx, input["VolumeId"]), input["PoolName"], input.get("HostId") or ""
    if target not in (LOCAL, *shared_pools(ctx.cloud)):
        raise invalid(f"There is no pool {target!r}. See DescribePools.")
    if host and target != LOCAL:
        raise invalid(f"The pool {target!r} is of all hosts: HostId is for {LOCAL!r}, of which each has one.")
    if host and await ctx.tx.get(Host, host) is None:
        raise invalid(f"There is no host {host!r}. See DescribeHosts.")
    if volume.modifying:
        raise _wrong_state(f"Volume {volume.id} is being modified: wait until that is done.")
    try:
        volume = await volume_moves.prepared(ctx.tx, volume, target, host)
    except ApiError as error:
        if error.code == "InsufficientVolumeCapacity":
            raise
        raise _wrong_state(str(error)) from error
    volume = await ctx.tx.put(volume_moves.begun(volume, target, ctx.env.utcnow()))
    return {"VolumeMove": _item(ctx, volume)}


@operation("fleet", "CancelVolumeMove", write=True)
async def cancel_volume_move(ctx: Context, input: Input) -> Output:
    volume = await _volume(ctx, input["VolumeId"])
    if volume.move is None or volume.move.state != "moving":
        raise _wrong_state(f"Volume {volume.id} is not on its way to another pool.")
    message = f"the move to the pool '{volume.move.target}' was cancelled"
    volume = volume_moves.ended(volume, "cancelled", message, ctx.env.utcnow())
    return {"VolumeMove": _item(ctx, await ctx.tx.put(volume))}


async def _volume(ctx: Context, id: str) -> Volume:
    volume = await ctx.tx.get(Volume, id)
    if volume is None or volume.staged or volume.state is VolumeState.deleting:
        raise ApiError("ResourceNotFoundException", f"There is no volume {id!r}. See DescribeVolumes of ec2.")
    return volume


def _wrong_state(message: str) -> ApiError:
    return ApiError("InvalidStateException", message)


def _item(ctx: Context, volume: Volume) -> dict[str, Any]:
    """``Cleaning``: pools in which what is not needed any more is still there."""
    move = volume.move
    common = {"VolumeId": volume.id, "PoolName": volume.pool, "HostId": volume.host, "State": "none"}
    if move is None:
        return common
    moving = move.state == "moving"
    done, total = ctx.hosts.copied(volume.host or "", volume.id) if moving else (0, 0)
    return {
        **common,
        "State": move.state,
        "SourcePoolName": move.source,
        "TargetPoolName": move.target,
        "DoneBytes": done if moving else None,
        "TotalBytes": total if moving else None,
        "StartTime": move.started,
        "EndTime": move.ended,
        "Message": move.message or None,
        "Cleaning": list(volume.leaves),
    }
