"""How much of the processors a process is left beside others."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

SESSION = Path("/proc/self/autogroup")


def set_niceness(nice: int) -> None:
    """This process's, and that of its session, which it has to lead. Raises OSError.

    Where the kernel shares the processors among sessions first, whatever is nice counts only inside of one
    (sched(7), autogroup). It may refuse the session's to one who is not root, or who is too quick.
    """
    os.setpriority(os.PRIO_PROCESS, 0, nice)
    with suppress(OSError):
        SESSION.write_text(str(nice))
