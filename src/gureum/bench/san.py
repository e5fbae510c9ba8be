"""The storage cluster of a cloud: how soon it is there, how soon again, and the memory of its daemons."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from gureum.bench import disk_io, san_copies, san_faults, san_peer
from gureum.bench.clouds import launcher
from gureum.bench.figures import Figure, Promise, Say
from gureum.bench.processes import busy_percent, memory_mb
from gureum.bench.servers import BenchError, free_port
from gureum.cli.children import child_environment
from gureum.cli.cloud import Cloud
from gureum.cli.config import default_base
from gureum.cli.output import CliError
from gureum.san.ceph.cluster import Cluster
from gureum.san.ceph.pools import is_well, wait_for
from gureum.san.settings import SanSettings

OSD_SIZE = "8G"
FIRST_SECONDS = 20
LATER_SECONDS = 10
UP_SECONDS_MAX = 180.0
SETTLE_SECONDS = 5.0
WELL_SECONDS = 15.0


def measure(directory: Path, say: Say, *, quick: bool) -> list[Figure]:
    """``directory`` is for the measured disks: the cluster's daemons need one that others may pass."""
    rounds, idle_seconds = (1, 10.0) if quick else (5, 60.0)
    first, later = [], []
    for number in range(1, rounds + 1):
        with san_cloud() as cloud:
            first.append(_first_up(cloud))
            down(cloud)
            later.append(up(cloud))
            say(f"{number} of {rounds}: first {first[-1]:.2f} s, again {later[-1]:.2f} s")
            if number == rounds:
                say(f"idle for {idle_seconds:.0f} s")
                time.sleep(SETTLE_SECONDS)
                pids = {name: found.pid for name, found in cloud.running_daemons().items()}
                percent = busy_percent(list(pids.values()), idle_seconds)
                memory = {name: memory_mb(pid)[0] for name, pid in pids.items()}
                settings = SanSettings.load(cloud.state_dir)
                disks = disk_io.measure(settings, directory, list(pids.values()), say, quick=quick)
                peers = san_peer.measure(settings, say, quick=quick)
                copies = san_copies.measure(cloud, directory, say, quick=quick)
                faults = san_faults.measure(cloud, directory, say, quick=quick)
    return [
        _start("first `gureum up --san ceph` to HEALTH_OK", first, FIRST_SECONDS),
        _start("later `gureum up` to HEALTH_OK", later, LATER_SECONDS),
        Figure(
            name="RSS of the idle storage daemons",
            value=sum(memory.values()),
            unit="MB",
            remark=", ".join(f"{name} {rss:.0f}" for name, rss in memory.items()),
        ),
        Figure(name="CPU of the idle storage daemons, of one core", value=percent, unit="%"),
        *disks,
        *peers,
        *copies,
        *faults,
    ]


def measure_copies(directory: Path, say: Say, *, quick: bool) -> list[Figure]:
    """Of all that only the copies, in a cloud of their own."""
    with san_cloud() as cloud:
        _first_up(cloud)
        return san_copies.measure(cloud, directory, say, quick=quick)


def _first_up(cloud: Cloud) -> float:
    return up(cloud, "--san", "ceph", "--san-size", OSD_SIZE, "--port", str(free_port()))


def _start(name: str, seconds: list[float], limit: float) -> Figure:
    return Figure(
        name=name, value=median(seconds), unit="s", samples=tuple(seconds), promise=Promise(limit=limit)
    )


@contextmanager
def san_cloud() -> Iterator[Cloud]:
    """A cloud of its own, not yet made, removed at the end."""
    directory = default_base() / "bench-san"
    try:
        with ended_cloud(directory) as cloud:
            yield cloud
    finally:
        if not Cloud(directory).is_running():
            shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def ended_cloud(directory: Path) -> Iterator[Cloud]:
    """A cloud of its own, not yet made, of which nothing but its directory is left at the end."""
    cloud = Cloud(directory)
    if cloud.exists and (cloud.is_running() or cloud.guests()):
        raise CliError(
            f"a measured cloud is still running in {directory}", f"gureum down --state-dir {directory}"
        )
    shutil.rmtree(directory, ignore_errors=True)
    try:
        yield cloud
    finally:
        if cloud.exists:
            cloud.stop_processes()
            cloud.evacuate()


def up(cloud: Cloud, *options: str) -> float:
    """Runs `gureum up -d`. Returns the seconds until it returned, its storage being well."""
    began = time.monotonic()
    _run(cloud, "up", "-d", *options)
    seconds = time.monotonic() - began
    cluster = Cluster.of(cloud.state_dir)
    # Its groups may be split just then, as its manager daemon sees fit.
    if cluster is None or not is_well(wait_for(cluster, is_well, time.monotonic() + WELL_SECONDS)):
        raise BenchError("the storage is not well after gureum up")
    return seconds


def down(cloud: Cloud) -> None:
    _run(cloud, "down")


def _run(cloud: Cloud, *words: str) -> None:
    command = [*launcher(), *words, "--state-dir", str(cloud.state_dir)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=child_environment(),
            timeout=UP_SECONDS_MAX,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BenchError(f"gureum {words[0]} did not end within {UP_SECONDS_MAX:.0f} s") from None
    if done.returncode != 0:
        raise BenchError(f"gureum {words[0]} ended with code {done.returncode}:\n{done.stderr}")
