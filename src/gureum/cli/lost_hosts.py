"""Hosts of this machine that are lost on purpose, for the demo and for what is measured.

Each is one of several, host-0 or another: each of those has a network of its own. A loss lasts as long as its
``with``.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gureum.cli.cloud import Cloud
from gureum.cli.output import NOT_RUNNING, CliError
from gureum.cli.processes import Identity, identify, read_pid_file, send

COMMAND_SECONDS = 30


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


def networks(cloud: Cloud) -> dict[int, int]:
    """By the number of a host's network in the kernel, the host's."""
    fabric = cloud.fabric(cloud.config())
    found = {}
    for name in fabric.namespaces():
        with suppress(OSError):
            found[os.stat(f"/run/netns/{name}").st_ino] = int(name.rpartition("-")[2])
    return found


def network(pid: int) -> int:
    """Of a process; 0 if it is gone."""
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino
    except OSError:
        return 0


def processes(cloud: Cloud, host: str) -> list[Identity]:
    """In a host's network, guests among them."""
    number = int(host.removeprefix("host-"))
    own = (Path("/run/netns") / cloud.fabric(cloud.config()).namespace(number)).stat().st_ino
    pids = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if network(pid) == own]
    return [identity for pid in pids if (identity := identify(pid)) is not None]


def kill_host(cloud: Cloud, host: str, how: signal.Signals) -> list[Identity]:
    """Sends it to the host's ``processes``. Returns which these are."""
    return [identity for identity in processes(cloud, host) if send(identity, how)]


@contextmanager
def stopped(cloud: Cloud, number: int) -> Iterator[None]:
    """All of it hangs, and goes on."""
    held = kill_host(cloud, f"host-{number}", signal.SIGSTOP)
    try:
        yield
    finally:
        for identity in held:
            send(identity, signal.SIGCONT)


@contextmanager
def away_from_manager(cloud: Cloud, number: int) -> Iterator[None]:
    """Its agent hangs: on one machine that one needs no network to reach the manager."""
    agent = read_pid_file(cloud.run_dir / f"agent-{number}.pid")
    if agent is None:
        raise CliError(f"host {number} has no agent", "gureum status", exit_code=NOT_RUNNING)
    send(agent, signal.SIGSTOP)
    try:
        yield
    finally:
        send(agent, signal.SIGCONT)


@contextmanager
def away_from_storage(cloud: Cloud, number: int) -> Iterator[None]:
    """Nothing goes from it to the cloud's own storage cluster any more."""
    fabric = cloud.fabric(cloud.config())
    inside = ["ip", "netns", "exec", fabric.namespace(number), "nft"]
    rule = f"ip daddr {fabric.gateway} tcp dport 20000-26999 drop"
    chain = f"chain output {{ type filter hook output priority -300; {rule}; }}"
    _run(*inside, f"table inet cut {{ {chain}\n}}\n")
    try:
        yield
    finally:
        _run(*inside, "delete table inet cut")


@contextmanager
def unplugged(cloud: Cloud, number: int) -> Iterator[None]:
    """Its cable is out: neither the storage nor anybody else is reached, but the manager on this machine."""
    port = cloud.fabric(cloud.config()).port(number)
    _run("ip", "link", "set", port, "down")
    try:
        yield
    finally:
        _run("ip", "link", "set", port, "up")


@contextmanager
def cut_off(cloud: Cloud, number: int) -> Iterator[None]:
    """It reaches nobody, the manager neither."""
    with away_from_manager(cloud, number), unplugged(cloud, number):
        yield


def _run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=COMMAND_SECONDS, capture_output=True)
