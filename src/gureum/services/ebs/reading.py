"""ListSnapshotBlocks, ListChangedBlocks and GetSnapshotBlock."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime
from typing import Any

from gureum.errors import ConfigError, TransportError
from gureum.resources import Snapshot, SnapshotState
from gureum.services.ebs import tokens
from gureum.services.ebs.faults import invalid, not_found, unreachable
from gureum.services.ec2 import lookup
from gureum.services.ec2.block_devices import gib
from gureum.services.operation import Context, Input, Output, operation
from gureum.transport.messages import BLOCK_BYTES, BlockUse

PAGE_MIN, PAGE_MAX, PAGE_DEFAULT = 100, 10_000, 1000
ALGORITHM = "SHA256"


async def found(ctx: Context, id: str) -> Snapshot:
    """A snapshot of the caller. Raises ValidationException, ResourceNotFoundException."""
    if not lookup.SNAPSHOT.well_formed(id):
        raise invalid("INVALID_SNAPSHOT_ID", f"'{id[:64]}' is no id of a snapshot.")
    snapshot = await ctx.tx.get(Snapshot, id)
    if snapshot is None or not lookup.SNAPSHOT.owned(snapshot, ctx.caller.account):
        raise not_found(id)
    return snapshot


async def readable(ctx: Context, id: str) -> Snapshot:
    """One whose blocks can be read. Raises likewise."""
    snapshot = await found(ctx, id)
    if snapshot.state is not SnapshotState.completed:
        raise invalid("INVALID_SNAPSHOT_ID", f"The snapshot '{id}' is not completed: it is {snapshot.state}.")
    if snapshot.image:
        raise invalid(
            "INVALID_SNAPSHOT_ID",
            f"The snapshot '{id}' stands for the disk of the built image {snapshot.image}, and has no blocks "
            "of its own. Copy it (CopySnapshot), and read the copy.",
        )
    return snapshot


def blocks_of(snapshot: Snapshot) -> int:
    return -(-snapshot.size_bytes // BLOCK_BYTES)


@operation("ebs", "ListSnapshotBlocks")
async def list_snapshot_blocks(ctx: Context, input: Input) -> Output:
    """The blocks with data. Of an encrypted one those that were written, though it be zeros."""
    snapshot = await readable(ctx, input["SnapshotId"])
    uses, token = await _page(ctx, input, snapshot, None)
    expires = tokens.expiry(ctx)
    return {
        "Blocks": [
            {"BlockIndex": at, "BlockToken": tokens.block_token(ctx, snapshot.id, at, expires)}
            for at, _, _ in uses
        ],
        **_frame(snapshot, expires, token),
    }


@operation("ebs", "ListChangedBlocks")
async def list_changed_blocks(ctx: Context, input: Input) -> Output:
    """The blocks that may differ. Each with its token in the snapshots that have data there."""
    second = await readable(ctx, input["SecondSnapshotId"])
    first: Snapshot | None = None
    if input.get("FirstSnapshotId"):
        first = await readable(ctx, input["FirstSnapshotId"])
        _check_related(first, second)
    uses, token = await _page(ctx, input, second, first)
    expires = tokens.expiry(ctx)
    changed = []
    for at, before, here in uses:
        block: dict[str, Any] = {"BlockIndex": at}
        if first is not None and before:
            block["FirstBlockToken"] = tokens.block_token(ctx, first.id, at, expires)
        if here:
            block["SecondBlockToken"] = tokens.block_token(ctx, second.id, at, expires)
        changed.append(block)
    return {"ChangedBlocks": changed, **_frame(second, expires, token)}


def _check_related(first: Snapshot, second: Snapshot) -> None:
    if first.taken_of != second.taken_of:
        raise invalid(
            "UNRELATED_SNAPSHOTS",
            f"The snapshots '{first.id}' and '{second.id}' are not of the same volume.",
        )


async def _page(
    ctx: Context, input: Input, snapshot: Snapshot, since: Snapshot | None
) -> tuple[list[BlockUse], str | None]:
    size = input.get("MaxResults") or PAGE_DEFAULT
    if not PAGE_MIN <= size <= PAGE_MAX:
        raise invalid(
            "INVALID_PARAMETER_VALUE", f"MaxResults has to be from {PAGE_MIN} to {PAGE_MAX}, not {size}."
        )
    listed = f"{since.id if since is not None else ''}/{snapshot.id}"
    begin = input.get("StartingBlockIndex") or 0
    if input.get("NextToken"):
        begin = tokens.page_index(ctx, listed, input["NextToken"])
    if begin < 0:
        raise invalid("INVALID_PARAMETER_VALUE", "StartingBlockIndex can't be negative.")
    try:
        uses = await ctx.hosts.blocks.used(snapshot, since, begin, size + 1)
    except TransportError as error:
        raise unreachable(snapshot.id, error) from error
    token = tokens.page_token(ctx, listed, uses[size].at) if len(uses) > size else None
    return uses[:size], token


def _frame(snapshot: Snapshot, expires: int, token: str | None) -> dict[str, Any]:
    return {
        "ExpiryTime": datetime.fromtimestamp(expires, UTC),
        "VolumeSize": gib(snapshot.size_bytes),
        "BlockSize": BLOCK_BYTES,
        "NextToken": token,
    }


@operation("ebs", "GetSnapshotBlock")
async def get_snapshot_block(ctx: Context, input: Input) -> Output:
    """In clear, as AWS does: who may ask may have it."""
    snapshot = await readable(ctx, input["SnapshotId"])
    index = input["BlockIndex"]
    tokens.check_block_token(ctx, input["BlockToken"], snapshot.id, index)
    if not 0 <= index < blocks_of(snapshot):
        raise invalid("INVALID_BLOCK", f"The snapshot '{snapshot.id}' has no block {index}.")
    try:
        data = await ctx.hosts.blocks.read(snapshot, index)
    except TransportError as error:
        raise unreachable(snapshot.id, error) from error
    except ConfigError as error:
        message = f"The snapshot '{snapshot.id}' can't be decrypted: {error}."
        raise invalid("INVALID_CUSTOMER_KEY", message) from error
    return {
        "DataLength": len(data),
        "BlockData": data,
        "Checksum": base64.b64encode(hashlib.sha256(data).digest()).decode(),
        "ChecksumAlgorithm": ALGORITHM,
    }
