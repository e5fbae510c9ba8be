"""StartSnapshot, PutSnapshotBlock and CompleteSnapshot.

The blocks are written to a volume that nobody sees, empty or a clone of the parent; at the end the snapshot
is taken of it. What is not completed is given up when nothing was written for the request's Timeout.

Where nothing was written are zeros. In an encrypted volume without a parent its host has to write these, all
over it, before the snapshot is taken: that one is pending for so long.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

from msgspec.structs import replace

from gureum.errors import ApiError, TransportError
from gureum.resources import Snapshot, SnapshotState
from gureum.services.ebs.faults import invalid, unreachable
from gureum.services.ebs.reading import ALGORITHM, blocks_of, found
from gureum.services.ec2 import encryption
from gureum.services.ec2.block_devices import KINDS, Disk, gib, pool_for, snapshot_source
from gureum.services.ec2.capacity import require_room_in
from gureum.services.ec2.limits import DESCRIPTION_LENGTH_MAX
from gureum.services.ec2.snapshot_copies import STAGED_KIND, staged
from gureum.services.ec2.tagging import parse_tags, tag_list
from gureum.services.ec2.uploads import UPLOADS
from gureum.services.operation import Context, Input, Output, operation
from gureum.transport.messages import BLOCK_BYTES

TIMEOUT_MINUTES_MIN, TIMEOUT_MINUTES_MAX, TIMEOUT_MINUTES_DEFAULT = 10, 4320, 60
UPLOADS_MAX = 100
"""Of an account at one time."""


@operation("ebs", "StartSnapshot", write=True)
async def start_snapshot(ctx: Context, input: Input) -> Output:
    minutes = input.get("Timeout") or TIMEOUT_MINUTES_DEFAULT
    if not TIMEOUT_MINUTES_MIN <= minutes <= TIMEOUT_MINUTES_MAX:
        raise invalid(
            "INVALID_PARAMETER_VALUE",
            f"Timeout has to be from {TIMEOUT_MINUTES_MIN} to {TIMEOUT_MINUTES_MAX} minutes, not {minutes}.",
        )
    description = input.get("Description") or ""
    if len(description) > DESCRIPTION_LENGTH_MAX:
        raise invalid("INVALID_PARAMETER_VALUE", "The description is too long.")
    try:
        tags = parse_tags(input.get("Tags"))
    except ApiError as error:
        raise invalid("INVALID_TAG", error.message) from error
    await _check_limit(ctx)
    parent = await _parent(ctx, input.get("ParentSnapshotId"))
    size = _size(input["VolumeSize"], parent)
    encrypted = await _encrypted(ctx, input, parent)
    disk = Disk(size, type=STAGED_KIND, pool=pool_for(ctx, STAGED_KIND, parent), encrypted=encrypted)
    await require_room_in(ctx.tx, disk.pool)
    if parent is not None:
        disk = disk._replace(
            source=snapshot_source(parent), key=parent.key, origin=parent.origin or parent.image
        )
    snapshot = await staged(ctx, disk, parent, description, tags, timeout_seconds=60.0 * minutes)
    UPLOADS.begin(snapshot.id, ctx.env.now())
    return {
        "SnapshotId": snapshot.id,
        "OwnerId": snapshot.account,
        "Status": str(snapshot.state),
        "StartTime": snapshot.started,
        "VolumeSize": size,
        "BlockSize": BLOCK_BYTES,
        "Description": description or None,
        "Tags": tag_list(tags),
        "ParentSnapshotId": parent.id if parent is not None else None,
        "KmsKeyArn": encryption.shown_key(ctx, encrypted),
        "SseType": "sse-kms" if encrypted else "none",
    }


async def _check_limit(ctx: Context) -> None:
    pending = await ctx.tx.find(Snapshot, account=ctx.caller.account, state=str(SnapshotState.pending))
    if sum(1 for each in pending if each.timeout_seconds) >= UPLOADS_MAX:
        raise ApiError(
            "ConcurrentLimitExceededException",
            f"{UPLOADS_MAX} snapshots are being written already: complete one of them first.",
        )


async def _parent(ctx: Context, id: str | None) -> Snapshot | None:
    if not id:
        return None
    parent = await found(ctx, id)
    if parent.state is not SnapshotState.completed:
        raise invalid("INVALID_SNAPSHOT_ID", f"The parent '{id}' is not completed: it is {parent.state}.")
    return parent


def _size(size: int, parent: Snapshot | None) -> int:
    least = gib(parent.size_bytes) if parent is not None else 1
    most = KINDS[STAGED_KIND].size_max
    if not least <= size <= most:
        raise invalid("INVALID_VOLUME_SIZE", f"VolumeSize has to be from {least} to {most} GiB, not {size}.")
    if parent is not None and parent.encrypted and size > least:
        # What is added would be noise to a machine, where clients that leave out zeros expect zeros.
        raise invalid(
            "INVALID_VOLUME_SIZE",
            f"With an encrypted parent VolumeSize has to be its {least} GiB, not {size}: gureum can't add to "
            "it yet. Grow the volumes that are made of the snapshot.",
        )
    return size


async def _encrypted(ctx: Context, input: Input, parent: Snapshot | None) -> bool:
    """As the parent is, else as asked for or the account's default. What AWS refuses is refused."""
    key = input.get("KmsKeyArn")
    if parent is None:
        encrypted = bool(input.get("Encrypted")) or await encryption.by_default(ctx)
        try:
            encryption.check_key(ctx, key, encrypted)
        except ApiError as error:
            raise invalid("INVALID_CUSTOMER_KEY", error.message.replace("KmsKeyId", "KmsKeyArn")) from error
        return encrypted
    for member in ("Encrypted", "KmsKeyArn"):
        if input.get(member) is not None:
            raise invalid(
                "INVALID_PARAMETER_VALUE",
                f"{member} can't be given together with ParentSnapshotId: a snapshot is as its parent.",
            )
    if not parent.encrypted and await encryption.by_default(ctx):
        raise invalid(
            "INVALID_PARAMETER_VALUE",
            f"Encryption by default is on, and the parent '{parent.id}' is not encrypted. Copy it "
            "(CopySnapshot), and take the copy as the parent.",
        )
    return parent.encrypted


@operation("ebs", "PutSnapshotBlock")
async def put_snapshot_block(ctx: Context, input: Input) -> Output:
    """It changes nothing in the store: the block goes to the volume, at once and durably."""
    snapshot = await found(ctx, input["SnapshotId"])
    _check_open(snapshot)
    index = input["BlockIndex"]
    if not 0 <= index < blocks_of(snapshot):
        raise invalid("INVALID_BLOCK", f"The snapshot '{snapshot.id}' has no block {index}.")
    if input["ChecksumAlgorithm"] != ALGORITHM:
        raise invalid("INVALID_PARAMETER_VALUE", f"ChecksumAlgorithm has to be {ALGORITHM}.")
    if input["DataLength"] != BLOCK_BYTES:
        raise invalid("INVALID_BLOCK", f"DataLength has to be {BLOCK_BYTES}, not {input['DataLength']}.")
    data = await input["BlockData"].read(BLOCK_BYTES)
    if len(data) != BLOCK_BYTES:
        raise invalid("INVALID_BLOCK", f"The block has {len(data)} bytes, not {BLOCK_BYTES}.")
    checksum = hashlib.sha256(data).digest()
    if not hmac.compare_digest(checksum, _decoded(input["Checksum"])):
        raise invalid("INVALID_BLOCK", "The checksum does not match the data.")
    try:
        await ctx.hosts.blocks.write(snapshot, index, data)
    except TransportError as error:
        raise unreachable(snapshot.id, error) from error
    UPLOADS.wrote(snapshot.id, ctx.env.now(), index, checksum)
    return {"Checksum": input["Checksum"], "ChecksumAlgorithm": ALGORITHM}


def _check_open(snapshot: Snapshot) -> None:
    if snapshot.state is not SnapshotState.pending or not snapshot.timeout_seconds:
        raise invalid(
            "INVALID_SNAPSHOT_ID",
            f"The snapshot '{snapshot.id}' takes no blocks: "
            + (snapshot.message or "it was not begun by StartSnapshot, or is completed already."),
        )


def _decoded(checksum: str) -> bytes:
    try:
        return base64.b64decode(checksum, validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid("INVALID_PARAMETER_VALUE", "Checksum has to be in base64.") from error


@operation("ebs", "CompleteSnapshot", write=True)
async def complete_snapshot(ctx: Context, input: Input) -> Output:
    """Asked again, it tells how far the snapshot is."""
    snapshot = await found(ctx, input["SnapshotId"])
    if snapshot.staging and not snapshot.timeout_seconds and snapshot.state is not SnapshotState.error:
        return {"Status": str(snapshot.state)}
    _check_open(snapshot)
    _check_whole(ctx, snapshot, input)
    await ctx.tx.put(replace(snapshot, timeout_seconds=0.0))
    return {"Status": str(snapshot.state)}


def _check_whole(ctx: Context, snapshot: Snapshot, input: Input) -> None:
    """Raises if other blocks were written than the client says, as far as that is known."""
    expected = input.get("Checksum")
    if expected is not None:
        if input.get("ChecksumAlgorithm", ALGORITHM) != ALGORITHM:
            raise invalid("INVALID_PARAMETER_VALUE", f"ChecksumAlgorithm has to be {ALGORITHM}.")
        if input.get("ChecksumAggregationMethod", "LINEAR") != "LINEAR":
            raise invalid("INVALID_PARAMETER_VALUE", "ChecksumAggregationMethod has to be LINEAR.")
    upload = UPLOADS.get(snapshot.id, ctx.env.now())
    if not upload.whole:
        return
    if input["ChangedBlocksCount"] != len(upload.blocks):
        raise invalid(
            "INVALID_PARAMETER_VALUE",
            f"ChangedBlocksCount is {input['ChangedBlocksCount']}, but {len(upload.blocks)} blocks were "
            "written.",
        )
    if expected is not None and not hmac.compare_digest(upload.checksum(), _decoded(expected)):
        raise invalid("INVALID_PARAMETER_VALUE", "The checksum does not match the blocks that were written.")
