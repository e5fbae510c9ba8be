"""Hosts of this machine that are lost on purpose, for the demo and for what is measured."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gureum.cli.cloud import Cloud
from gureum.cli.output import NOT_RUNNING, CliError


@contextmanager
def unsupervised(cloud: Cloud) -> Iterator[None]:
    """What dies stays dead: a process that starts others again would bring half a host back at once.

    Raises CliError if there is no supervisor.
    """
    supervisor = cloud.supervisor()
    if supervisor is None:
        raise CliError("the supervisor does not run", "gureum status", exit_code=NOT_RUNNING)
    os.kill(supervisor.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(supervisor.pid, signal.SIGCONT)


def kill_host(cloud: Cloud, host: str, how: signal.Signals) -> list[int]:
    """Sends it to the processes in a host's network, guests among them. Returns their ids.

    The host is one of several of this machine, host-0 or another: each of those has a network of its own.
    """
    number = int(host.removeprefix("host-"))
    network = (Path("/run/netns") / cloud.fabric(cloud.config()).namespace(number)).stat().st_ino
    pids = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _network(pid) == network]
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, how)
    return pids


def _network(pid: int) -> int:
    try:
        return Path(f"/proc/{pid}/ns/net").stat().st_ino
    except OSError:
        return 0
