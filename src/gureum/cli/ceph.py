"""What `gureum san status` says of a Ceph cluster: its own words, and what this machine knows besides."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import msgspec

from gureum.cli.cloud import Cloud
from gureum.cli.output import human_bytes, table
from gureum.errors import PoolUnavailable
from gureum.san.ceph import status
from gureum.san.ceph.cluster import Cluster
from gureum.san.ceph.commands import Access
from gureum.san.ceph.health import ERROR, OK, WARN, Finding, Health, Recovery
from gureum.san.ceph.pools import admin
from gureum.san.settings import SanSettings

WORDS = {OK: "all is well", WARN: "works, but not all is well", ERROR: "something does not work"}
MINUTE, HOUR = 60, 3600


def look(cloud: Cloud, settings: SanSettings) -> status.Status:
    """Blocks. Raises PoolUnavailable, PoolError."""
    cluster = Cluster.of(cloud.state_dir)
    if cluster is None:
        return status.look(Access.of(settings), settings.pool)
    if not cluster.conf.exists():
        raise PoolUnavailable("it was not made yet")
    return with_machine(cloud, cluster, status.look(admin(cluster), settings.pool))


def with_machine(cloud: Cloud, cluster: Cluster, found: status.Status) -> status.Status:
    """Adds each daemon's process, and whether the machine has the room that the OSDs' files promise."""
    pids = {name: identity.pid for name, identity in cloud.running_daemons().items()}
    osds = tuple(msgspec.structs.replace(osd, pid=pids.get(osd.name)) for osd in found.osds)
    findings = [*found.health.findings, *overcommitted(cluster)]
    severity = WARN if found.health.status == OK and findings else found.health.status
    health = Health(severity, tuple(findings), found.health.recovery)
    return msgspec.structs.replace(found, osds=osds, health=health)


def overcommitted(cluster: Cluster) -> list[Finding]:
    record = cluster.record()
    if record.devices:
        return []
    taken = [os.stat(cluster.daemon_dir(name) / "block").st_blocks * 512 for name in cluster.osds]
    missing = sum(max(0, record.osd_bytes - bytes) for bytes in taken)
    free = shutil.disk_usage(cluster.directory).free
    if free >= missing:
        return []
    text = (
        f"the OSDs' files may yet grow by {human_bytes(missing)}, and their disk has {human_bytes(free)} free"
    )
    return [Finding("DISK_OVERCOMMITTED", WARN, text, "free space on it: a full disk stops the OSDs")]


def lines(found: status.Status) -> Iterator[str]:
    room, health = found.room, found.health
    yield f"Ceph {found.version}  {found.fsid}  pool {found.pool}"
    yield f"health: {WORDS[health.status]}"
    for finding in health.findings:
        yield f"  {finding.severity:<7}  {finding.text}  [{finding.code}]"
        if finding.todo:
            yield f"           -> {finding.todo}"
    if health.recovery is not None:
        yield f"recovery: {recovery(health.recovery)}"
    share = f"{100 * room.used / room.usable:.0f} %" if room.usable else "-"
    yield f"room: {human_bytes(room.used)} of {human_bytes(room.usable)} used ({share})"
    yield f"      {room.copies} copies, writes need {room.copies_min}; with all copies and overhead " + (
        f"{human_bytes(room.raw_used)} of {human_bytes(room.raw)}"
    )
    if found.osds:
        yield ""
        yield table(("osd", "state", "used", "size", "pid", "device"), map(_row, found.osds))


def recovery(going: Recovery) -> str:
    what = [f"{going.objects_missing} copies of objects are missing"] if going.objects_missing else []
    what += [f"{going.objects_misplaced} are to move"] if going.objects_misplaced else []
    if going.remaining_s is None:
        return f"{', '.join(what)}; nothing is being copied now"
    rate = f"{human_bytes(going.bytes_per_s)}/s"
    return f"{', '.join(what)}; {rate}, about {_duration(going.remaining_s)} to go"


def _duration(seconds: int) -> str:
    if seconds < 2 * MINUTE:
        return f"{seconds} s"
    return f"{seconds // MINUTE} min" if seconds < 2 * HOUR else f"{seconds // HOUR} h"


def _row(osd: status.Osd) -> tuple[object, ...]:
    state = f"{'up' if osd.is_up else 'DOWN'}, {'in' if osd.is_in else 'OUT'}"
    return (osd.name, state, human_bytes(osd.used), human_bytes(osd.size), osd.pid or "-", osd.device or "-")
