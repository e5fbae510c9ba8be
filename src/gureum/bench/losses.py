"""Hosts that are lost: how soon their guest runs elsewhere, and that what it had written is there.

Three hosts of one zone on this machine, each in a network of its own, with a storage cluster. A guest that
flushes each of its writes is on one of them, which is then killed, stopped, cut off, or unplugged while it is
heard, by turns.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

from gureum.bench.checked_load import CheckedLoad
from gureum.bench.clouds import wait
from gureum.bench.copies import copies, state
from gureum.bench.figures import Figure, Promise, Say
from gureum.bench.san import san_cloud, up
from gureum.bench.san_faults import BLOCKS, SECONDS_MAX, Writer, answers, exported, writing
from gureum.bench.servers import BenchError, free_port
from gureum.cli import api
from gureum.cli.cloud import Cloud
from gureum.cli.lost_hosts import cut_off, kill_host, stopped, unplugged, unsupervised

HOSTS = 3
OSD_SIZE = "4G"
ROUNDS = 20
LIMIT_SECONDS = 10
"""From the loss to the new process of the machine: its guest has to boot after that."""
LOOK_SECONDS = 0.02


class Lost(NamedTuple):
    """Seconds from the loss until the new QEMU is there, and until its guest answers by ssh."""

    started: float
    answered: float


class Kind(NamedTuple):
    name: str
    away: Callable[[Cloud, int], AbstractContextManager[None]]
    """Loses the host with this number until its end."""
    is_held: bool
    """Whether the old process may be there still, and has to be stopped or gone before the new one starts."""


def measure(directory: Path, say: Say, *, quick: bool) -> list[Figure]:
    rounds = 2 if quick else ROUNDS
    found: dict[str, list[Lost]] = {kind.name: [] for kind in KINDS}
    with san_cloud() as cloud:
        options = ("--hosts", str(HOSTS), "--zones", "1", "--san", "ceph", "--san-size", OSD_SIZE)
        up(cloud, *options, "--port", str(free_port()))
        with writing(cloud, directory, say) as writer:
            writer.load.stop()
            for number in range(rounds):
                for kind in KINDS:
                    lost = _lose(cloud, writer, kind, directory)
                    found[kind.name].append(lost)
                    times = f"starts after {lost.started:.1f} s, answers after {lost.answered:.1f} s"
                    say(f"{number + 1} of {rounds}: {kind.name}: {times}")
    return [figure for name, times in found.items() for figure in _figures(name, times)]


def _figures(name: str, times: Sequence[Lost]) -> list[Figure]:
    started = tuple(each.started for each in times)
    answered = tuple(each.answered for each in times)
    return [
        Figure(
            name=f"{name}, until its guest is started elsewhere, longest of {len(times)}",
            value=max(started),
            unit="s",
            samples=started,
            promise=Promise(limit=LIMIT_SECONDS),
        ),
        Figure(name="the same, until it answers", value=max(answered), unit="s", samples=answered),
    ]


def _lose(cloud: Cloud, writer: Writer, kind: Kind, directory: Path) -> Lost:
    [(old, number)] = _machines(cloud, writer.instance).items()
    with CheckedLoad(writer.ssh, "/dev/vdb") as load:
        load.wait_written(BLOCKS, SECONDS_MAX)
        began = time.monotonic()
        with kind.away(cloud, number):
            started = _elsewhere(cloud, writer.instance, number, began)
            if kind.is_held and state(old) not in ("T", "Z", ""):
                raise BenchError(f"{kind.name}: the old QEMU runs while the new one does")
            wait("the guest to answer", lambda: answers(writer.ssh), SECONDS_MAX)
            answered = time.monotonic() - began
    if wrong := load.check(exported(cloud, writer.volume, directory)):
        raise BenchError(f"what the guest wrote is not there: {'; '.join(wrong[:3])}")
    wait("the old process to end", lambda: state(old) in ("Z", ""), SECONDS_MAX)
    wait("the host to be up", lambda: _is_up(cloud, number), SECONDS_MAX)
    return Lost(started, answered)


def _machines(cloud: Cloud, instance: str) -> dict[int, int]:
    """The processes of an instance's machine, and the numbers of the hosts that they are on."""
    return {each.pid: each.host for each in copies(cloud) if each.instance == instance}


def _elsewhere(cloud: Cloud, instance: str, host: int, began: float) -> float:
    """Seconds until the instance has a process on another host."""
    while not set(_machines(cloud, instance).values()) - {host}:
        if time.monotonic() > began + SECONDS_MAX:
            raise BenchError(f"{instance} does not run elsewhere after {SECONDS_MAX:.0f} s")
        time.sleep(LOOK_SECONDS)
    return time.monotonic() - began


def _is_up(cloud: Cloud, number: int) -> bool:
    hosts = api.call(cloud, "fleet", "describe_hosts")["Hosts"]
    return any(host["HostId"] == f"host-{number}" and host["State"] == "up" for host in hosts)


@contextmanager
def _killed(cloud: Cloud, number: int) -> Iterator[None]:
    with unsupervised(cloud):
        kill_host(cloud, f"host-{number}", signal.SIGKILL)
        yield


KINDS = (
    Kind("a host is killed", _killed, False),
    Kind("a host is stopped", stopped, True),
    Kind("a host is cut off", cut_off, True),
    Kind("a host is unplugged, and heard", unplugged, True),
)
