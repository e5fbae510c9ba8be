"""What QEMU says of a migration, and how long its guest may be held."""

from __future__ import annotations

from msgspec.structs import replace

from gureum.hypervisors import messages
from gureum.hypervisors.base import Migration, Outgoing
from gureum.hypervisors.qemu.live_nodes import item
from gureum.hypervisors.qemu.monitor import Answer
from gureum.migrationspec import MigrationPhase
from gureum.sizespec import MachineSize

PASSES_AT_FIRST, PASSES_BETWEEN = 4, 2
"""Over the memory: how many until a longer downtime is allowed, and until twice as much."""
DOUBLINGS_AT_FIRST, PASSES_SLOWED = 2, 30
"""A guest that writes faster than is copied is slowed down by QEMU more and more (auto-converge), in some 20
passes. Only where that was of no use it is held for longer than after so many doublings.
"""
PRE_SWITCHOVER = "pre-switchover"
_NOT_BEGUN = ("none", "completed", "failed", "cancelled")
_SENT = ("postmigrate", "finish-migrate")


def sends(answer: Answer, run_state: str) -> bool:
    """Whether a machine's memory is, or was just, sent to another host. What has once brought it here, or an
    attempt that failed, says nothing of that.
    """
    return run_state in _SENT or str(answer.get("status", "none")) not in _NOT_BEGUN


def downtime_limit(outgoing: Outgoing, passes: int) -> int:
    """Milliseconds, after so many passes over the memory."""
    doublings = max(0, passes - PASSES_AT_FIRST) // PASSES_BETWEEN
    if doublings > DOUBLINGS_AT_FIRST:
        late = max(0, passes - PASSES_SLOWED)
        doublings = DOUBLINGS_AT_FIRST + late // PASSES_BETWEEN
    return min(outgoing.downtime_ms << min(doublings, 16), outgoing.downtime_max_ms)


def parse_phase(answer: Answer) -> MigrationPhase | None:
    """QEMU's MigrationStatus (qapi/migration.json); None if there is none."""
    match str(answer.get("status", "none")):
        case "none":
            return None
        case "completed":
            return MigrationPhase.completed
        case "failed" | "cancelled":
            return MigrationPhase.failed
        case _:
            return MigrationPhase.copying


def parse_figures(status: Migration, answer: Answer, size: MachineSize | None = None) -> Migration:
    """``size``: of a machine that can grow. QEMU's total counts all memory that it could have."""
    ram = item(answer.get("ram"))
    absent = size.absent_bytes if size is not None else 0

    def number(of: Answer, name: str) -> int:
        value = of.get(name)
        return int(value) if isinstance(value, int | float) else 0

    error = str(answer.get("error-desc", ""))
    if answer.get("status") == "cancelled":
        error = messages.CANCELLED
    elif answer.get("status") == "failed":
        error = error or "QEMU does not say why"
    return replace(
        status,
        remaining_bytes=number(ram, "remaining"),
        total_bytes=max(0, number(ram, "total") - absent) or status.total_bytes,
        copied_bytes=number(ram, "transferred"),
        bytes_per_second=int(float(str(ram.get("mbps", 0))) * 1e6 / 8),
        # Pages that are all zero count too, of which next to nothing is sent.
        passed_bytes_per_second=number(ram, "pages-per-second") * number(ram, "page-size"),
        dirty_bytes_per_second=number(ram, "dirty-pages-rate") * number(ram, "page-size"),
        # What it expects meanwhile says little: a multiple, or nothing yet.
        downtime_ms=number(answer, "downtime"),
        total_ms=number(answer, "total-time"),
        error=error,
    )
