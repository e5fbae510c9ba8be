"""Whether machines may run on this host now: the decision alone, without a clock or hands of its own.

All times are seconds of one clock of this host that goes on while the machine sleeps (CLOCK_BOOTTIME). No
time of another host is compared with them, only how long things take.

A host may run machines while it renewed its lease in the storage cluster, or while the manager heard it; in
both cases counted from when the request was begun, and for less than the other side waits. A fence mark that
is not lifted is above both.
"""

from __future__ import annotations

from enum import Enum

LEASE_SECONDS = 5
"""How long the cluster keeps a lease that is not renewed."""
LEASE_COUNTS_SECONDS = 4.0
WORD_COUNTS_SECONDS = 3.0
"""The manager holds no host for lost that it had a report from in the last ``SILENCE_SECONDS_MIN``."""
SILENCE_SECONDS_MIN = 4.0
RENEW_SECONDS = 1.0


class Decision(Enum):
    """``run``: machines may run. ``freeze``: they are stopped, all of them. ``kill``: they are ended."""

    run = "run"
    freeze = "freeze"
    kill = "kill"


class Custody:
    """``lease_until``: a time that an earlier warden of this host had got to, 0.0 for none."""

    def __init__(self, lease_until: float = 0.0) -> None:
        self.lease_until = lease_until
        self.word_until = 0.0
        self.mark = 0
        self.lifted = 0
        self.killed = 0
        """The last mark for which all machines were killed."""
        self.reason = "the storage cluster and the manager were not reached yet"

    def renewed(self, began: float, mark: int, lifted: int) -> None:
        """The lease was renewed by a request begun at ``began``, and the mark was read AFTER that."""
        self.marked(mark, lifted)
        self.lease_until = max(self.lease_until, began + LEASE_COUNTS_SECONDS)

    def marked(self, mark: int, lifted: int) -> None:
        """What is written down in the cluster. Neither ever becomes less."""
        self.mark = max(self.mark, mark)
        self.lifted = max(self.lifted, lifted)

    def heard(self, sent: float) -> None:
        """The manager has had a report that was sent at ``sent``."""
        self.word_until = max(self.word_until, sent + WORD_COUNTS_SECONDS)

    def lost_lease(self) -> None:
        """Somebody else has it, or it is given back."""
        self.lease_until = 0.0

    @property
    def fenced(self) -> bool:
        return self.mark > self.lifted

    @property
    def until(self) -> float:
        """When the permission ends that there is now, if there is no fence."""
        return max(self.lease_until, self.word_until)

    def decide(self, now: float) -> Decision:
        if self.fenced:
            self.reason = f"this host was given up (fence {self.mark})"
            return Decision.kill
        if now < self.until:
            self.reason = ""
            return Decision.run
        if self.until:
            self.reason = (
                f"neither the storage cluster nor the manager was reached for {now - self.until:.1f} s more "
                "than allowed: other hosts may take the machines over"
            )
        return Decision.freeze

    def may_take_over(self, now: float, stopped: bool) -> bool:
        """Whether a lease that an earlier warden of this host left may be broken, to have it at once.

        From then on it protects nobody until this one has it: so only while no machine runs (``stopped``), or
        while the manager's word holds, before which nobody fences.
        """
        return not self.fenced and (stopped or now < self.word_until)
