"""What a cluster says of its health, in words that a person acts on.

Names and meanings of the checks: Ceph's "Health checks". What is not known here is shown as Ceph words it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

OK, WARN, ERROR = "ok", "warning", "error"
SEVERITIES = {"HEALTH_OK": OK, "HEALTH_WARN": WARN, "HEALTH_ERR": ERROR}
ORDER = (OK, WARN, ERROR)
STALLS = frozenset({"PG_AVAILABILITY", "POOL_FULL", "OSD_ROOT_DOWN"})
"""What Ceph only warns of, and guests wait for."""
WAITING = frozenset({"peered", "down", "incomplete"})
"""States of placement groups that do not pass by themselves."""
SHOWN_MAX = 5
DAEMON = re.compile(r"\b((?:osd|mon|mgr)\.[\w-]+)")


class Finding(msgspec.Struct, frozen=True):
    """One thing that is not as it should be. ``code`` is Ceph's name for it, ``todo`` may be empty."""

    code: str
    severity: str
    text: str
    todo: str = ""


class Recovery(msgspec.Struct, frozen=True):
    """Copies that are being made. ``remaining_s`` is None while nothing moves, or nobody knows."""

    objects_missing: int
    objects_misplaced: int
    bytes_per_s: int
    remaining_s: int | None


class Health(msgspec.Struct, frozen=True):
    status: str
    findings: tuple[Finding, ...] = ()
    recovery: Recovery | None = None


Check = dict[str, Any]
Words = tuple[str, str]
START = "start it again on its machine"
FREE_SPACE = "delete volumes and snapshots, or add OSDs"


def read(status: dict[str, Any], detail: dict[str, Any]) -> Health:
    """From `ceph status` and `ceph health detail`, both as JSON."""
    findings = tuple(
        finding(code, check) for code, check in sorted(detail["checks"].items()) if not check.get("muted")
    )
    if "PG_AVAILABILITY" not in detail["checks"]:
        findings = (*findings, *out_of_reach(status.get("pgmap", {})))
    said = SEVERITIES.get(detail["status"], ERROR)
    worst = max((said, *(found.severity for found in findings)), key=ORDER.index)
    return Health(worst, findings, recovery(status.get("pgmap", {})))


def finding(code: str, check: Check) -> Finding:
    words = TRANSLATIONS.get(code)
    text, todo = words(check) if words else (_summary(check), "")
    severity = ERROR if code in STALLS else SEVERITIES.get(check.get("severity", ""), WARN)
    return Finding(code, severity, text, todo)


def out_of_reach(pgmap: dict[str, Any]) -> tuple[Finding, ...]:
    """Parts of the data that take no writes until an OSD is back: Ceph's own check says so after a minute."""
    states = pgmap.get("pgs_by_state", ())
    total = sum(each["count"] for each in states)
    waiting = sum(each["count"] for each in states if WAITING & {*each["state_name"].split("+")})
    if not waiting:
        return ()
    text = f"{waiting} of {total} parts of the data cannot be written now: guests that want to wait"
    return (Finding("PG_INACTIVE", ERROR, text, "bring the OSDs that are down up again"),)


def recovery(pgmap: dict[str, Any]) -> Recovery | None:
    """None if every object has its copies where they belong."""
    missing = pgmap.get("degraded_objects", 0) + pgmap.get("unfound_objects", 0)
    misplaced = pgmap.get("misplaced_objects", 0)
    if not missing and not misplaced:
        return None
    rate = pgmap.get("recovering_bytes_per_sec", 0)
    object_bytes = pgmap.get("data_bytes", 0) / max(1, pgmap.get("num_objects", 0))
    remaining = round((missing + misplaced) * object_bytes / rate) if rate else None
    return Recovery(missing, misplaced, rate, remaining)


# ---- what each check means


def _summary(check: Check) -> str:
    message = check.get("summary", {}).get("message", "no details are known")
    return str(message)


def _details(check: Check) -> list[str]:
    return [str(line.get("message", "")) for line in check.get("detail", [])]


def _who(check: Check) -> str:
    """The daemons that a check's details name; its summary where they name none."""
    named = [found[1] for line in _details(check) if (found := DAEMON.search(line))]
    names = list(dict.fromkeys(named))
    more = f" and {len(names) - SHOWN_MAX} more" if len(names) > SHOWN_MAX else ""
    return ", ".join(names[:SHOWN_MAX]) + more


def _about(text: str, todo: str, plural: str = "") -> Callable[[Check], Words]:
    """Words about the daemons that the check names."""

    def words(check: Check) -> Words:
        who = _who(check)
        if not who:
            return _summary(check), todo
        return f"{who} {plural if plural and (',' in who or ' ' in who) else text}", todo

    return words


def _says(text: str, todo: str) -> Callable[[Check], Words]:
    return lambda check: (f"{text} ({_summary(check)})", todo)


TRANSLATIONS: dict[str, Callable[[Check], Words]] = {
    "OSD_DOWN": _about(
        "is down: what is written has fewer copies until it is back",
        START,
        "are down: what is written has fewer copies until they are back",
    ),
    "OSD_HOST_DOWN": _says("all OSDs of a host are down", START),
    "OSD_ROOT_DOWN": _says("all OSDs are down: nothing can be read or written", START),
    "OSD_NEARFULL": _about("is nearly full", FREE_SPACE, "are nearly full"),
    "OSD_BACKFILLFULL": _about(
        "is too full to take copies from others", FREE_SPACE, "are too full to take copies from others"
    ),
    "OSD_FULL": _about(
        "is full: nothing can be written, guests wait",
        FREE_SPACE,
        "are full: nothing can be written, guests wait",
    ),
    "POOL_NEARFULL": _says("a pool is nearly full", FREE_SPACE),
    "POOL_BACKFILLFULL": _says("a pool is too full for copies to be made again", FREE_SPACE),
    "POOL_FULL": _says("a pool is full: nothing can be written, guests wait", FREE_SPACE),
    "POOL_TOO_FEW_PGS": _says("a pool has few placement groups for its size", ""),
    "PG_DEGRADED": _says(
        "some data has fewer copies than it should", "nothing, if the OSDs are up: the copies are being made"
    ),
    "PG_AVAILABILITY": _says(
        "some data cannot be reached: guests that want it wait", "bring the OSDs that are down up again"
    ),
    "PG_DAMAGED": _says(
        "some copies differ from each other", "ceph health detail names them; ceph pg repair ID repairs one"
    ),
    "OSD_SCRUB_ERRORS": _says("comparing the copies found errors", "ceph health detail; ceph pg repair ID"),
    "OBJECT_UNFOUND": _says(
        "the newest copies of some data are on OSDs that are down", "bring those OSDs up again"
    ),
    "PG_BACKFILL_FULL": _says("copies cannot be made: OSDs are too full", FREE_SPACE),
    "PG_RECOVERY_FULL": _says("copies cannot be made: OSDs are full", FREE_SPACE),
    "PG_NOT_DEEP_SCRUBBED": _says("copies were not compared for a long time", ""),
    "PG_NOT_SCRUBBED": _says("copies were not compared for a long time", ""),
    "MON_DOWN": _about(
        "is down: one more, and nothing can be changed", "start it again", "are down: start them again"
    ),
    "MON_DISK_LOW": _about("has little room on its machine's disk", "free space there"),
    "MON_DISK_CRIT": _about("has hardly any room on its machine's disk, and will stop", "free space there"),
    "MON_CLOCK_SKEW": _about("has another time than the other monitors", "let NTP set its machine's clock"),
    "MGR_DOWN": _says(
        "no manager runs: disks work, but states and free space are not kept up to date", START
    ),
    "MGR_MODULE_DEPENDENCY": _says(
        "parts of the manager cannot be loaded, which disks do not need",
        "ceph health detail names what is missing on the manager's machine",
    ),
    "SLOW_OPS": _says(
        "reading or writing is slow", "is a disk failing or busy? ceph health detail names the OSDs"
    ),
    "OSDMAP_FLAGS": _says(
        "parts of the cluster's work are switched off", "ceph osd unset FLAG switches it on again"
    ),
    "OSD_SLOW_PING_TIME_BACK": _says("the network between OSDs is slow", "look at links and load"),
    "OSD_SLOW_PING_TIME_FRONT": _says("the network between OSDs is slow", "look at links and load"),
    "BLUESTORE_SLOW_OP_ALERT": _about("has a slow disk", "look at the disk's health"),
    "OSD_TOO_MANY_REPAIRS": _about("had many read errors: its disk is failing", "replace the disk"),
    "RECENT_CRASH": _says(
        "a daemon crashed lately", "ceph crash ls; ceph crash archive-all when you know why"
    ),
    "AUTH_INSECURE_GLOBAL_ID_RECLAIM_ALLOWED": _says(
        "clients with an old weakness may connect",
        "ceph config set mon auth_allow_insecure_global_id_reclaim false, once all clients are new",
    ),
}
