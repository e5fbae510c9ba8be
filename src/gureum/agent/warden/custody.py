"""Whether machines may run on this host now: the decision alone, without a clock or hands of its own.

All times are seconds of one clock of this host that goes on while the machine sleeps (CLOCK_BOOTTIME). No
time of another host is compared with them: only how long things take.

A host may run machines while it renewed its lease in the storage cluster, or while the manager heard it. Both
count from when the request was begun, and for less than the other side waits. A fence is above both.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

LEASE_SECONDS = 5
"""How long the cluster keeps a lease that is not renewed."""
LEASE_COUNTS_SECONDS = 4.0
WORD_COUNTS_SECONDS = 3.0
SILENCE_SECONDS_MIN = 4.0
"""The manager gives no host up before it has not heard it, or not answered it, for that long."""
RENEW_SECONDS = 1.0
REACHED_SECONDS = 2.5
"""Who has renewed its lease within this time reaches the storage cluster: it has missed one turn at most."""


def reaches_storage(lease_until: float, now: float) -> bool:
    """Whether who has a lease that counts until then has reached the storage cluster lately."""
    return now < lease_until - LEASE_COUNTS_SECONDS + REACHED_SECONDS


class Marks(NamedTuple):
    """What the cluster keeps of a host's fences, as numbers; none of them ever becomes less.

    ``fence``: the last one. ``lifted``: those up to this are over. ``killed``: the last for which the host
    itself has ended all its machines.
    """

    fence: int = 0
    lifted: int = 0
    killed: int = 0

    def merged(self, other: Marks) -> Marks:
        return Marks(*map(max, self, other))


class Decision(Enum):
    """``run``: machines may run. ``freeze``: all are stopped where they are. ``kill``: all are ended."""

    run = "run"
    freeze = "freeze"
    kill = "kill"


class Custody:
    """``lease_until``: how far an earlier warden of this host had got, 0.0 for none."""

    def __init__(self, lease_until: float = 0.0) -> None:
        self.lease_until = lease_until
        self.word_until = 0.0
        self.marks = Marks()

    def renewed(self, began: float, marks: Marks) -> None:
        """The lease was renewed by a request begun at ``began``, and ``marks`` were read AFTER that."""
        self.marked(marks)
        self.lease_until = max(self.lease_until, began + LEASE_COUNTS_SECONDS)

    def marked(self, marks: Marks) -> None:
        """What was read, or done here: what is written comes later."""
        self.marks = self.marks.merged(marks)

    def heard(self, sent: float, now: float) -> None:
        """The manager has had a report that was sent at ``sent``. One of the future is of another boot."""
        if sent <= now:
            self.word_until = max(self.word_until, sent + WORD_COUNTS_SECONDS)

    def lost_lease(self) -> None:
        """Somebody else has it, or may have it from now on."""
        self.lease_until = 0.0

    @property
    def fenced(self) -> bool:
        """Whether a fence is in force."""
        return self.marks.fence > self.marks.lifted

    @property
    def until(self) -> float:
        """How far the permission goes that there is, 0.0 if there is none."""
        return 0.0 if self._must_kill else max(self.lease_until, self.word_until)

    @property
    def _must_kill(self) -> bool:
        # Also after a fence that came and went unseen: machines of before it run elsewhere.
        return self.fenced or self.marks.fence > self.marks.killed

    def decide(self, now: float) -> Decision:
        if self._must_kill:
            return Decision.kill
        return Decision.run if now < self.until else Decision.freeze

    def silence(self, now: float) -> str:
        """Why machines may not run, for people."""
        lease = now - self.lease_until + LEASE_COUNTS_SECONDS
        word = now - self.word_until + WORD_COUNTS_SECONDS
        said = [
            f"{who} was last reached {seconds:.1f} s ago" if until else f"{who} was not reached yet"
            for who, until, seconds in (
                ("the storage cluster", self.lease_until, lease),
                ("the manager", self.word_until, word),
            )
        ]
        return " and ".join(said)

    def may_take_over(self, now: float, stopped: bool) -> bool:
        """Whether a lease that an earlier warden of this host left may be broken, to have it at once.

        Until this one has it then, it protects nothing: so only while no machine runs (``stopped``), or while
        the manager's word holds, before the end of which nobody fences. ``lost_lease`` comes first.
        """
        return not self._must_kill and (stopped or now < self.word_until)
