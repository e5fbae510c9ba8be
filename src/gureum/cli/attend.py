"""What `up` in the foreground turns into once the cloud runs: waits, and becomes `down` on Ctrl-C.

As small as the supervisor, and for the same reason.
"""

from __future__ import annotations

import os
import signal
import sys

from gureum.cli.processes import read_pid_file, wait_gone

POLL_S = 2_000_000.0  # poll(2) counts milliseconds in an int


def attend(state_dir: str) -> int:
    """Returns when the cloud ended otherwise: 0 if stopped in order, 1 if its supervisor was killed."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    pid_file = f"{state_dir}/run/supervisor.pid"
    try:
        supervisor = read_pid_file(pid_file)
        while supervisor is not None and not wait_gone(supervisor, POLL_S):
            pass
    except KeyboardInterrupt:
        sys.stderr.write("\nstopping ...\n")
        os.execv(sys.executable, [sys.executable, "-P", "-m", "gureum.cli", "down", "--state-dir", state_dir])
    if os.path.exists(pid_file):
        sys.stderr.write("gureum: the supervisor was killed\n  next: gureum status; gureum up\n")
        return 1
    sys.stderr.write("the cloud was stopped\n")
    return 0


def main(arguments: list[str]) -> int:
    return attend(arguments[1])
