"""Backups of snapshots by the EC2 and EBS direct APIs, to directories. Blocking; needs botocore."""

from __future__ import annotations

import base64
import hashlib
import secrets
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from msgspec.structs import replace

from gureum.cli.api import with_commands
from gureum.cli.backup_files import (
    BLOCK_BYTES,
    SEALED_VERSION,
    VERSION,
    Damaged,
    Directory,
    Manifest,
    Part,
    Pending,
    Point,
)
from gureum.cli.backup_keys import Seal, make_key, read_key
from gureum.cli.options import cloud_at
from gureum.cli.output import CliError, human_bytes, note

PARALLEL = 8
BATCH_BLOCKS = 32
PAGE_BLOCKS = 1000
ATTEMPTS = 8
WAIT_SECONDS = 24 * 3600.0
"""An encrypted snapshot is pending until all of it is written."""
LOOK_SECONDS = 0.5
TAG = "gureum-backup"
READ_SECONDS = 60.0

T = TypeVar("T")
R = TypeVar("R")
AGAIN = "the same command goes on where it stopped"


@contextmanager
def reported() -> Iterator[None]:
    """Raises CliError for what can go wrong here."""
    try:
        yield
    except Damaged as error:
        raise CliError(str(error), "another copy of the backup; or begin one in a new directory") from error
    except ClientError as error:
        said = error.response["Error"]
        todo = AGAIN if passes(error) else ""
        raise CliError(f"{said['Code']}: {with_commands(said['Message'])}", todo) from error
    except BotoCoreError as error:
        raise CliError(str(error), AGAIN) from error
    except OSError as error:
        raise CliError(f"{error.filename or 'a file of the backup'}: {error.strerror}", AGAIN) from error


def passes(error: ClientError) -> bool:
    """Whether the same may be answered otherwise in a while: what is not there, or wrong, stays so."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = str(error.response["Error"]["Code"])
    return status >= 500 or status == 429 or "Throttl" in code or "LimitExceeded" in code


class Api:
    """The EC2 and EBS APIs of a cloud. ``endpoint``: "aws" for AWS's own, None for that of ``state_dir``.

    ``own``: it is a cloud of ours for certain.
    """

    def __init__(self, endpoint: str | None, state_dir: Path | None) -> None:
        self.own = endpoint is None
        session = botocore.session.Session()
        more: dict[str, Any] = {}
        if endpoint is None:
            config = cloud_at(state_dir).config()
            more = {
                "region_name": config.region,
                "endpoint_url": config.endpoint,
                "aws_access_key_id": config.access_key_id,
                "aws_secret_access_key": config.secret_access_key,
                "verify": config.tls_cert or None,
            }
        elif endpoint != "aws":
            more = {"endpoint_url": endpoint}
        settings = Config(
            connect_timeout=5,
            read_timeout=READ_SECONDS,
            max_pool_connections=PARALLEL,
            retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
        )
        self.endpoint = str(more.get("endpoint_url", "aws"))
        self.ec2: Any = session.create_client("ec2", config=settings, **more)
        self.ebs: Any = session.create_client("ebs", config=settings, **more)

    def snapshot(self, id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ec2.describe_snapshots(SnapshotIds=[id])["Snapshots"][0]
        return found

    def volume(self, id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ec2.describe_volumes(VolumeIds=[id])["Volumes"][0]
        return found

    def state(self, id: str) -> str:
        """ "" for one that does not exist."""
        try:
            return str(self.snapshot(id)["State"])
        except ClientError as error:
            if error.response["Error"]["Code"] == "InvalidSnapshot.NotFound":
                return ""
            raise

    def wait_completed(self, id: str) -> dict[str, Any]:
        found = settled(lambda: self.snapshot(id), "pending")
        if found["State"] != "completed":
            raise CliError(f"{id} is {found['State']}: {found.get('StateMessage') or 'not completed'}")
        return found

    def encrypted(self, source: str) -> bool:
        """Whether a volume or snapshot is."""
        found = self.volume(source) if source.startswith("vol-") else self.snapshot(source)
        return bool(found["Encrypted"])

    def blocks(self, id: str, since: str) -> Iterator[tuple[int, str]]:
        """Block numbers in order, and the token to read each with, "" for one that has become zeros."""
        asked: dict[str, Any] = {"MaxResults": PAGE_BLOCKS}
        while True:
            if since:
                page = self.ebs.list_changed_blocks(FirstSnapshotId=since, SecondSnapshotId=id, **asked)
                for block in page.get("ChangedBlocks", ()):
                    yield block["BlockIndex"], block.get("SecondBlockToken", "")
            else:
                page = self.ebs.list_snapshot_blocks(SnapshotId=id, **asked)
                for block in page.get("Blocks", ()):
                    yield block["BlockIndex"], block["BlockToken"]
            if page["BlockSize"] != BLOCK_BYTES:
                raise CliError(f"blocks of {page['BlockSize']} bytes are not understood")
            if not page.get("NextToken"):
                return
            asked["NextToken"] = page["NextToken"]

    def read(self, id: str, index: int, token: str) -> bytes:
        if not token:
            return b""
        for _ in range(3):
            answer = self.ebs.get_snapshot_block(SnapshotId=id, BlockIndex=index, BlockToken=token)
            data: bytes = answer["BlockData"].read()
            if base64.b64encode(hashlib.sha256(data).digest()).decode() == answer["Checksum"]:
                return data
        raise CliError(
            f"block {index} of {id} came damaged three times: its checksum is not that of its data"
        )

    def write(self, id: str, index: int, data: bytes) -> None:
        self.ebs.put_snapshot_block(
            SnapshotId=id,
            BlockIndex=index,
            BlockData=data,
            DataLength=len(data),
            Checksum=base64.b64encode(hashlib.sha256(data).digest()).decode(),
            ChecksumAlgorithm="SHA256",
        )


class Backup:
    """``key_file``: what its files are encrypted with, None for not.

    ``clear``: they may be in clear also where the cloud's volume is encrypted.
    """

    def __init__(self, api: Api, files: Directory, key_file: Path | None = None, clear: bool = False) -> None:
        self._api = api
        self._files = files
        self._key_file = key_file
        self._clear = clear

    def run(self, source: str) -> tuple[Point, int]:
        """The point, and how many bytes were read for it."""
        manifest = self._files.manifest()
        if done := self._done(manifest, source):
            return done, 0
        key = self._key(manifest, source)
        manifest, made = self._begin(manifest, source, key)
        assert manifest.pending is not None
        found = self._api.wait_completed(manifest.pending.snapshot)
        since = manifest.pending.parent
        with self._files.part(found["SnapshotId"]) as part:
            read = self._copy(part, found["SnapshotId"], since)
            point = Point(
                snapshot=found["SnapshotId"],
                parent=since,
                volume_size=found["VolumeSize"],
                started=found["StartTime"].isoformat(),
                description=found.get("Description") or "",
                encrypted=found["Encrypted"],
                noise=found["Encrypted"] and self._api.own,
                made=made,
                entries=len(part.entries),
                data_blocks=part.data_blocks,
                index_sha256=part.index_sha256(),
            )
        former = manifest.points[-1] if manifest.points else None
        self._files.complete(manifest, point)
        if former is not None and former.made and self._api.state(former.snapshot):
            self._api.ec2.delete_snapshot(SnapshotId=former.snapshot)
        return point, read

    def _done(self, manifest: Manifest | None, source: str) -> Point | None:
        points = manifest.points if manifest is not None else ()
        return next((point for point in points if point.snapshot == source), None)

    def _key(self, manifest: Manifest | None, source: str) -> bytes:
        """The backup's key, wrapped, b"" for none; from now on blocks are sealed with it."""
        path = self._files.path
        if manifest is not None and manifest.key:
            self._files.seal = unlocked(self._files, manifest, self._key_file)
            return manifest.key
        if self._key_file is not None:
            if manifest is not None:
                raise CliError(
                    f"{path} is a backup that is not encrypted", "begin another in a new directory"
                )
            if self._key_file.resolve().is_relative_to(path.resolve()):
                raise CliError(f"{self._key_file} is in the backup that it opens", "keep the key elsewhere")
            file_key = self._file_key(self._key_file)
            self._files.seal = Seal.new()
            return self._files.seal.wrapped(file_key)
        if self._api.encrypted(source):
            if not self._clear:
                raise CliError(
                    f"{source} is encrypted, and a backup in {path} would not be",
                    "--key-file FILE encrypts one in a new directory (FILE is made if there is none); "
                    "--clear does not",
                )
            note(f"{source} is encrypted; the backup's files are NOT: keep them as you keep keys")
        return b""

    def _file_key(self, path: Path) -> bytes:
        if path.exists():
            return read_key(path)
        try:
            key = make_key(path)
        except FileExistsError:
            return read_key(path)
        note(f"{path} is made: without it the backup can't be read. Keep copies of it, apart from the backup")
        return key

    def _begin(self, manifest: Manifest | None, source: str, key: bytes) -> tuple[Manifest, bool]:
        """Decide once what is read, and on top of what. Goes on with what a crash has left."""
        is_volume = source.startswith("vol-")
        volume = source if is_volume else self._api.wait_completed(source)["VolumeId"]
        if manifest is None:
            manifest = Manifest(volume=volume, key=key, version=SEALED_VERSION if key else VERSION)
        if manifest.volume != volume:
            raise CliError(f"{self._files.path} is a backup of {manifest.volume}, not of {volume}")
        pending = manifest.pending
        if pending is not None and (gone := self._gone(pending)):
            note(f"the cloud has no {gone} any more: what was read of {pending.snapshot} is given up")
            self._files.discard(pending.snapshot)
            pending = None
        if pending is None:
            pending = Pending(token=secrets.token_hex(8) if is_volume else "", parent=self._parent(manifest))
            manifest = replace(manifest, pending=pending)
            self._files.save(manifest)
        if not pending.snapshot:
            pending = replace(
                pending, snapshot=self._take(volume, pending.token) if pending.token else source
            )
            manifest = replace(manifest, pending=pending)
            self._files.save(manifest)
        if not is_volume and pending.snapshot != source:
            raise CliError(
                f"the backup of {pending.snapshot} is not complete",
                f"gureum san backup {pending.snapshot} ...",
            )
        return manifest, bool(pending.token)

    def _gone(self, pending: Pending) -> str:
        """A snapshot that is needed to go on and cannot be had, "" if there is none."""
        if pending.snapshot and self._api.state(pending.snapshot) not in ("pending", "completed"):
            return pending.snapshot
        if pending.parent and self._api.state(pending.parent) != "completed":
            return pending.parent
        return ""

    def _parent(self, manifest: Manifest) -> str:
        """The last point, if the cloud still has its snapshot: else everything is read once more."""
        if not manifest.points:
            return ""
        last = manifest.points[-1]
        self._files.entries(last)
        if self._api.state(last.snapshot) == "completed":
            return last.snapshot
        note(f"the cloud has no {last.snapshot} any more: all of the volume is read, not what changed since")
        return ""

    def _take(self, volume: str, token: str) -> str:
        tags = [{"Key": TAG, "Value": token}]
        found = self._api.ec2.describe_snapshots(
            OwnerIds=["self"], Filters=[{"Name": f"tag:{TAG}", "Values": [token]}]
        )["Snapshots"]
        if found:
            return str(found[0]["SnapshotId"])
        answer = self._api.ec2.create_snapshot(
            VolumeId=volume,
            Description=f"for the backup {self._files.path.name}"[:255],
            TagSpecifications=[{"ResourceType": "snapshot", "Tags": tags}],
        )
        return str(answer["SnapshotId"])

    def _copy(self, part: Part, id: str, since: str) -> int:
        have = {entry.at for entry in part.entries}
        listed = [each for each in self._api.blocks(id, since) if each[0] not in have]
        progress = Progress("read", len(listed))
        batch: list[tuple[int, bytes]] = []
        read = 0
        for index, data in parallel(lambda each: (each[0], self._api.read(id, *each)), listed):
            batch.append((index, data))
            read += len(data)
            if len(batch) == BATCH_BLOCKS:
                part.append(batch)
                progress.add(len(batch))
                batch = []
        if batch:
            part.append(batch)
        progress.end()
        return read


def unlocked(files: Directory, manifest: Manifest, key_file: Path | None) -> Seal:
    """The key of an encrypted backup. Raises CliError, Damaged."""
    if key_file is None:
        raise CliError(
            f"{files.path} is an encrypted backup", "--key-file FILE, the one that it was made with"
        )
    seal = Seal.opened(manifest.key, read_key(key_file))
    if seal is None:
        raise CliError(
            f"{key_file} is not the key of {files.path}", "--key-file FILE, the one that it was made with"
        )
    files.require_proved(manifest, seal)
    return seal


def settled(look: Callable[[], dict[str, Any]], busy: str) -> dict[str, Any]:
    """What it is once its state is another than ``busy``, or after WAIT_SECONDS."""
    deadline = time.monotonic() + WAIT_SECONDS
    while (found := look())["State"] == busy and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
    return found


def parallel(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Results in the order of the items; at most twice PARALLEL under way."""
    with ThreadPoolExecutor(PARALLEL) as workers:
        going: deque[Future[R]] = deque()
        try:
            for item in items:
                going.append(workers.submit(work, item))
                if len(going) >= 2 * PARALLEL:
                    yield going.popleft().result()
            while going:
                yield going.popleft().result()
        finally:
            for future in going:
                future.cancel()


class Progress:
    """A line at a terminal, on stderr; elsewhere nothing."""

    def __init__(self, word: str, total: int) -> None:
        self._word, self._total, self._done = word, total, 0
        self._began = time.monotonic()
        self._shows = sys.stderr.isatty()

    def add(self, blocks: int) -> None:
        self._done += blocks
        if self._shows and self._total:
            rate = self._done * BLOCK_BYTES / max(0.001, time.monotonic() - self._began)
            share = 100 * self._done // self._total
            size = human_bytes(self._done * BLOCK_BYTES)
            print(f"\r{self._word} {size}, {share} %, {human_bytes(rate)}/s \x1b[K", end="", file=sys.stderr)

    def end(self) -> None:
        if self._shows and self._done:
            print("\r\x1b[K", end="", file=sys.stderr)
