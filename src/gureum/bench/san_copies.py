"""Copies of a volume of 2 GiB in the storage cluster: clones, and snapshots while a guest writes to it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from gureum.bench.disk_io import rbd
from gureum.bench.figures import Figure, Promise, Say, compare
from gureum.bench.san_faults import SECONDS_MAX, Writer, writing
from gureum.bench.servers import BenchError
from gureum.cli.cloud import Cloud
from gureum.san.ceph.cluster import Cluster

GIB = 2
ROUNDS = 10
LOOK_SECONDS = 0.002
BLOCKS = 3
"""Acknowledged before each snapshot, and after it."""
CLONE_MS = 300
SNAPSHOT_MS = 500
STALL_MS = 100


class Taken(NamedTuple):
    """In milliseconds: the snapshot, and the longest wait for an answered write, with it and without."""

    snapshot: float
    stall: float
    usual: float


class Cloned(NamedTuple):
    """In milliseconds; and the bytes that are not the snapshot's."""

    made: float
    copied: int


def measure(cloud: Cloud, directory: Path, say: Say, *, quick: bool) -> list[Figure]:
    """``cloud`` runs, with a storage cluster of its own; ``directory`` is for what is needed meanwhile."""
    count = 3 if quick else ROUNDS
    with writing(cloud, directory, say, gib=GIB) as writer:
        taken = [_snapshot(writer, say) for _ in range(count)]
        writer.load.stop()
        clones = _clones(cloud, writer, count, say)
    return [
        compare(
            f"clone of {GIB} GiB",
            "ms",
            [each.made for each in clones],
            promise=Promise(limit=CLONE_MS),
            remark="CreateVolume to available",
        ),
        Figure(
            name="bytes copied for a clone",
            value=max(each.copied for each in clones),
            unit="bytes",
            promise=Promise(limit=0),
        ),
        compare(
            f"snapshot of {GIB} GiB that a guest writes to",
            "ms",
            [each.snapshot for each in taken],
            promise=Promise(limit=SNAPSHOT_MS),
            remark="CreateSnapshot to completed",
        ),
        compare(
            "longest time between two answered writes meanwhile",
            "ms",
            [each.stall for each in taken],
            promise=Promise(limit=STALL_MS),
        ),
        compare("the same without a snapshot", "ms", [each.usual for each in taken]),
    ]


def _snapshot(writer: Writer, say: Say) -> Taken:
    load, ec2 = writer.load, writer.ec2
    began = time.monotonic()
    load.wait_written(BLOCKS, SECONDS_MAX)
    usual = load.stall(began) * 1000
    began = time.monotonic()
    id = ec2.create_snapshot(VolumeId=writer.volume)["SnapshotId"]
    taken = _until(began, lambda: _snapshot_state(ec2, id) == "completed")
    load.wait_written(BLOCKS, SECONDS_MAX)
    stall = load.stall(began) * 1000
    ec2.delete_snapshot(SnapshotId=id)
    say(f"snapshot: {taken:.0f} ms, the guest's longest wait {stall:.0f} ms, before {usual:.0f} ms")
    return Taken(taken, stall, usual)


def _clones(cloud: Cloud, writer: Writer, count: int, say: Say) -> list[Cloned]:
    ec2, found = writer.ec2, []
    snapshot = ec2.create_snapshot(VolumeId=writer.volume)["SnapshotId"]
    _until(time.monotonic(), lambda: _snapshot_state(ec2, snapshot) == "completed")
    zone = ec2.describe_availability_zones()["AvailabilityZones"][0]["ZoneName"]
    for _ in range(count):
        began = time.monotonic()
        id = ec2.create_volume(SnapshotId=snapshot, AvailabilityZone=zone)["VolumeId"]
        made = _until(began, lambda id=id: _volume_state(ec2, id) == "available")  # type: ignore[misc]
        found.append(Cloned(made, _used(cloud, id)))
        say(f"clone: {made:.0f} ms, {found[-1].copied} bytes copied")
        ec2.delete_volume(VolumeId=id)
    ec2.delete_snapshot(SnapshotId=snapshot)
    return found


def _until(began: float, holds: Callable[[], bool]) -> float:
    """Milliseconds since ``began``."""
    while not holds():
        if time.monotonic() > began + SECONDS_MAX:
            raise BenchError(f"a copy was not there after {SECONDS_MAX:.0f} s")
        time.sleep(LOOK_SECONDS)
    return (time.monotonic() - began) * 1000


def _snapshot_state(ec2: Any, id: str) -> str:
    return str(ec2.describe_snapshots(SnapshotIds=[id])["Snapshots"][0]["State"])


def _volume_state(ec2: Any, id: str) -> str:
    return str(ec2.describe_volumes(VolumeIds=[id])["Volumes"][0]["State"])


def _used(cloud: Cloud, volume: str) -> int:
    """Bytes of the pool that the volume has for itself."""
    said = rbd(Cluster(cloud.state_dir).settings(), "du", "--format", "json", volume)
    return sum(int(each["used_size"]) for each in json.loads(said)["images"])
