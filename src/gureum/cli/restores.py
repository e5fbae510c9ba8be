"""Restoring a backup: a new snapshot by the EBS direct APIs of any cloud. Blocking; needs botocore."""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from gureum.cli.backup_files import BLOCK_BYTES, ZERO, Directory, Place
from gureum.cli.backups import (
    BATCH_BLOCKS,
    LOOK_SECONDS,
    TAG,
    WAIT_SECONDS,
    Api,
    Progress,
    parallel,
    settled,
    unlocked,
)
from gureum.cli.output import CliError

UPLOAD_MINUTES = 240


class Restore:
    """``point``: what is restored; ``where``: its blocks.

    Where an encrypted snapshot is made of nothing, its cloud writes zeros all over it. If there was noise
    anyway where nothing was written, it is made of an encrypted one that is empty instead, and gets what the
    backup has: then it is as thin as it was, and has noise there again.
    """

    def __init__(self, files: Directory, snapshot: str) -> None:
        manifest = files.manifest()
        if manifest is None or not manifest.points:
            raise CliError(f"there is no complete backup in {files.path}")
        self._files = files
        self._manifest = manifest
        chain = files.chain(manifest, snapshot or manifest.points[-1].snapshot)
        self.point = chain[-1]
        self.where = files.where(chain)
        self._written = files.where(chain, zeros=True)
        self._noise = all(point.noise for point in chain)

    def verify(self) -> None:
        """Read all of it: nothing is begun with a damaged backup. It takes no key; with one, more is seen."""

        def length(index: int) -> int:
            place = self.where[index]
            return len(self._files.block(index, place) if self._files.seal else self._files.kept(place))

        progress = Progress("check", len(self.where))
        for _ in parallel(length, self.where):
            progress.add(1)
        progress.end()

    def unlock(self, key_file: Path | None) -> None:
        """With this key, or none if it needs none. Raises CliError, Damaged."""
        if self._manifest.key:
            self._files.seal = unlocked(self._files, self._manifest, key_file)
        elif key_file is not None:
            raise CliError(f"{self._files.path} is not encrypted", "the same without --key-file")

    def run(self, api: Api, clear: bool) -> str:
        """The new snapshot's id."""
        encrypted = self.point.encrypted and not clear
        state = self._start(api, encrypted)
        id, done = str(state["id"]), int(state["done"])
        if state["base"]:
            _drop(api, state["base"])
        blocks = self._written if state["base"] else self.where
        left = [index for index in sorted(blocks) if index >= done]
        progress = Progress("written", len(left))
        for count, index in enumerate(parallel(lambda index: self._put(api, id, index), left), 1):
            if count % BATCH_BLOCKS == 0:
                self._files.set_journal({**state, "done": index + 1})
                progress.add(BATCH_BLOCKS)
        progress.end()
        api.ebs.complete_snapshot(SnapshotId=id, ChangedBlocksCount=len(blocks), **self._checksum(blocks))
        api.wait_completed(id)
        self._files.set_journal(None)
        return id

    def _checksum(self, blocks: Mapping[int, Place]) -> dict[str, Any]:
        """Of all blocks, where it is known: the digests of sealed ones are of what is kept."""
        if self._manifest.key or not blocks:
            return {}
        zeros = hashlib.sha256(bytes(BLOCK_BYTES)).digest()
        in_order = (blocks[index].digest for index in sorted(blocks))
        digests = b"".join(zeros if digest == ZERO else digest for digest in in_order)
        return {
            "Checksum": base64.b64encode(hashlib.sha256(digests).digest()).decode(),
            "ChecksumAlgorithm": "SHA256",
            "ChecksumAggregationMethod": "LINEAR",
        }

    def _start(self, api: Api, encrypted: bool) -> dict[str, Any]:
        """The journal, with a snapshot to write to: one that a crash has left, or a new one.

        ``id``: that snapshot; ``done``: the first block that it may lack; ``base``: what it was made of.
        """
        mine = {"endpoint": api.endpoint, "point": self.point.snapshot, "encrypted": encrypted}
        state = self._files.journal()
        if not state.items() >= mine.items():
            state = {**mine, "token": secrets.token_hex(8), "id": ""}
        if state["id"] and api.state(state["id"]) == "pending":
            return state
        base = ""
        if encrypted and self._noise and api.endpoint != "aws":
            self._files.set_journal(state)
            base = _empty(api, self.point.volume_size, state["token"])
        how = {"ParentSnapshotId": base} if base else {"Encrypted": True} if encrypted else {}
        answer = api.ebs.start_snapshot(
            VolumeSize=self.point.volume_size,
            Description=(self.point.description or f"{self.point.snapshot} of {self._manifest.volume}")[:255],
            Timeout=UPLOAD_MINUTES,
            **how,
        )
        state = {**state, "id": str(answer["SnapshotId"]), "base": base, "done": 0}
        self._files.set_journal(state)
        return state

    def _put(self, api: Api, id: str, index: int) -> int:
        place = self._written[index]
        api.write(id, index, self._files.block(index, place))
        return index


def _empty(api: Api, size_gib: int, token: str) -> str:
    """An encrypted snapshot of nothing; ``token``: of this restore. Goes on with what a crash has left."""
    tag = [{"Key": TAG, "Value": token}]
    mine = [{"Name": f"tag:{TAG}", "Values": [token]}]
    snapshots = api.ec2.describe_snapshots(OwnerIds=["self"], Filters=mine)["Snapshots"]
    volumes = api.ec2.describe_volumes(Filters=mine)["Volumes"]
    if snapshots:
        snapshot = str(snapshots[0]["SnapshotId"])
    else:
        if not volumes:
            zone = api.ec2.describe_availability_zones()["AvailabilityZones"][0]["ZoneName"]
            made = api.ec2.create_volume(
                AvailabilityZone=zone,
                Size=size_gib,
                VolumeType="gp3",
                Encrypted=True,
                TagSpecifications=[{"ResourceType": "volume", "Tags": tag}],
            )
            volumes = [made]
        _wait_available(api, volumes[0]["VolumeId"])
        answer = api.ec2.create_snapshot(
            VolumeId=volumes[0]["VolumeId"],
            Description="empty: a restore begins with it",
            TagSpecifications=[{"ResourceType": "snapshot", "Tags": tag}],
        )
        snapshot = str(answer["SnapshotId"])
    api.wait_completed(snapshot)
    for volume in volumes:
        try:
            api.ec2.delete_volume(VolumeId=volume["VolumeId"])
        except ClientError as error:
            if error.response["Error"]["Code"] != "InvalidVolume.NotFound":
                raise
    return snapshot


def _drop(api: Api, base: str) -> None:
    """What the new snapshot was made of is needed no more, once the cloud has done that."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            api.ec2.delete_snapshot(SnapshotId=base)
            return
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code == "InvalidSnapshot.NotFound":
                return
            if code != "InvalidSnapshot.InUse" or time.monotonic() >= deadline:
                raise
        time.sleep(LOOK_SECONDS)


def _wait_available(api: Api, volume: str) -> None:
    state = settled(lambda: api.volume(volume), "creating")["State"]
    if state != "available":
        raise CliError(f"{volume}, which the restore begins with, is {state}", "gureum status says why")
