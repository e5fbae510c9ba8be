"""What `gureum san status` says of a Ceph cluster: its own words, and what this machine knows besides."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from gureum.cli.cloud import Cloud
from gureum.cli.output import human_bytes, table
from gureum.errors import PoolUnavailable
from gureum.san.ceph import health, room, status
from gureum.san.ceph.cluster import ADDED, GONE, LEAVING, MGR, REPLACED, USED, Cluster
from gureum.san.ceph.commands import Access
from gureum.san.ceph.health import DAEMON, ERROR, OK, WARN, Finding, Health, Recovery
from gureum.san.ceph.pools import admin
from gureum.san.settings import SanSettings

WORDS = {OK: "all is well", WARN: "works, but not all is well", ERROR: "something does not work"}
MINUTE, HOUR = 60, 3600
LOG_BYTES = 1 << 20
ERRNO = re.compile(r"\(\d+\) ([A-Z][\w /]+)")
"""As Ceph words an error: (5) Input/output error."""
LOGS = "gureum logs {name} shows why"
OWN_WORDS = {
    "OSD_DOWN": f"{LOGS}; the supervisor starts it again by itself. If its disk is lost: "
    "gureum san osd replace {id}",
    "OSD_ROOT_DOWN": "gureum logs osd.0 shows why; the supervisor starts them again by itself",
    "MGR_DOWN": "gureum logs mgr.x shows why; the supervisor starts it again by itself",
    "OSD_TOO_MANY_REPAIRS": "gureum san osd add, then gureum san osd remove {id}",
    "BLUESTORE_SLOW_OP_ALERT": "is its disk failing? gureum san osd add, then gureum san osd remove {id}",
    **dict.fromkeys(
        ("OSD_NEARFULL", "OSD_BACKFILLFULL", "OSD_FULL", "POOL_NEARFULL", "POOL_BACKFILLFULL", "POOL_FULL"),
        "delete volumes and snapshots, or gureum san osd add",
    ),
}
"""What to do, by the code of what is wrong."""
CHANGES = {
    ADDED: ("is being added", "interrupted? gureum san osd add goes on"),
    REPLACED: ("is being replaced", "interrupted? gureum san osd replace {} goes on"),
    LEAVING: ("is being removed", "interrupted? gureum san osd remove {0} goes on, with --cancel it stays"),
    GONE: ("is being removed", "interrupted? gureum san osd remove {} goes on"),
}


def look(cloud: Cloud, settings: SanSettings) -> status.Status:
    """Blocks. Raises PoolUnavailable, PoolError."""
    cluster = Cluster.of(cloud.state_dir)
    if cluster is None:
        return status.look(Access.of(settings), settings)
    if not cluster.conf.exists():
        raise PoolUnavailable("it was not made yet")
    return with_machine(cloud, cluster, status.look(admin(cluster), settings))


def with_machine(cloud: Cloud, cluster: Cluster, found: status.Status) -> status.Status:
    """Adds each daemon's process, and whether the machine has the room that the OSDs' files promise."""
    pids = {name: identity.pid for name, identity in cloud.running_daemons().items()}
    osds = tuple(msgspec.structs.replace(osd, pid=pids.get(osd.name)) for osd in found.osds)
    findings = [own_words(cloud.log_dir, finding) for finding in found.health.findings]
    findings += [*half_done(cluster), *overcommitted(cluster)]
    if MGR not in pids and not any(finding.code == "MGR_DOWN" for finding in findings):
        # The monitor says so only after a minute and a half.
        unsaid = {"severity": "HEALTH_WARN", "summary": {"message": f"{MGR} does not run"}}
        findings.append(own_words(cloud.log_dir, health.finding("MGR_DOWN", unsaid)))
    severity = WARN if found.health.status == OK and findings else found.health.status
    said = Health(severity, tuple(findings), found.health.recovery)
    return msgspec.structs.replace(found, osds=osds, health=said)


def overcommitted(cluster: Cluster) -> list[Finding]:
    files = [disk for disk in cluster.disks() if disk.runs and not disk.device]
    missing = sum(max(0, disk.bytes - room.taken(cluster, disk)) for disk in files)
    free = shutil.disk_usage(cluster.directory).free
    if free >= missing:
        return []
    text = (
        f"the OSDs' files may yet grow by {human_bytes(missing)}, and their disk has {human_bytes(free)} free"
    )
    return [Finding("DISK_OVERCOMMITTED", WARN, text, "free space on it: a full disk stops the OSDs")]


def own_words(logs: Path, finding: Finding) -> Finding:
    """What to do about it where the daemons are the cloud's own, and why it is so."""
    words = OWN_WORDS.get(finding.code)
    if words is None:
        return finding
    named = DAEMON.search(finding.text)
    name = named[1] if named else "osd.ID"
    why = disk_error(logs / f"{name}.log") if finding.code == "OSD_DOWN" else ""
    text = f"{finding.text} (its disk: {why})" if why else finding.text
    todo = words.format(name=name, id=name.partition(".")[2])
    return msgspec.structs.replace(finding, text=text, todo=todo)


def disk_error(log: Path) -> str:
    """What an OSD said last of errors of its disk, "" if nothing lately."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LOG_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    errors = [found[1] for line in lines if "bdev" in line and (found := ERRNO.search(line))]
    return errors[-1] if errors else ""


def half_done(cluster: Cluster) -> list[Finding]:
    """Changes of its OSDs that are under way, or were interrupted."""
    changing = [(disk, *CHANGES[disk.state]) for disk in cluster.disks() if disk.state != USED]
    return [
        Finding("OSD_CHANGE", WARN, f"{disk.name} {text}", todo.format(disk.number))
        for disk, text, todo in changing
    ]


def lines(found: status.Status) -> Iterator[str]:
    held, said = found.room, found.health
    names = " ".join(each.name for each in found.pools) or found.pool
    yield f"Ceph {found.version}  {found.fsid}  pool{'s' if len(found.pools) > 1 else ''} {names}"
    yield f"health: {WORDS[said.status]}"
    for finding in said.findings:
        yield f"  {finding.severity:<7}  {finding.text}  [{finding.code}]"
        if finding.todo:
            yield f"           -> {finding.todo}"
    if said.recovery is not None:
        yield f"recovery: {recovery(said.recovery)}"
    raw = f"with all copies and overhead {human_bytes(held.raw_used)} of {human_bytes(held.raw)}"
    if len(found.pools) > 1:
        yield f"room: {raw}"
        yield ""
        yield pool_table(found)
    else:
        share = f"{100 * held.used / held.usable:.0f} %" if held.usable else "-"
        yield f"room: {human_bytes(held.used)} of {human_bytes(held.usable)} used ({share})"
        yield f"      {held.copies} copies, writes need {held.copies_min}; {raw}"
    if found.osds:
        yield ""
        yield osd_table(found)


def pool_table(found: status.Status) -> str:
    header = ("pool", "used", "of", "copies", "volume types")
    return table(header, map(_pool_row, found.pools))


def _pool_row(pool: status.PoolRoom) -> tuple[object, ...]:
    held, types = pool.room, " ".join(pool.types)
    return (pool.name, human_bytes(held.used), human_bytes(held.usable), held.copies, types or "-")


def osd_table(found: status.Status) -> str:
    return table(("osd", "state", "used", "size", "pid", "device"), map(_row, found.osds))


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
    # Nobody has counted yet, or a user of some pools may not know.
    counted = map(human_bytes, (osd.used, osd.size)) if osd.size else ("-", "-")
    return (osd.name, state, *counted, osd.pid or "-", osd.device or "-")
