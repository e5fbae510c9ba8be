"""Disk I/O as a guest has it, beside `qemu-img bench` on the same image with the same settings.

What the guest's number lacks of the peer's is what the virtual machine costs. Both run right after each
other, so many times, and the ratio is that of the pairs. Whether the processor is the limit shows in what
guest and storage daemons take of it, and what is left idle, which is said beside each figure: under emulation
(TCG) the guest's own kernel takes a core before the disk is busy.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from gureum.bench.disk_guest import DiskGuest, Load, disk_guest, initrd
from gureum.bench.figures import Figure, Promise, Say, compare
from gureum.bench.processes import TICKS, cpu_seconds
from gureum.bench.servers import BenchError
from gureum.env import Env
from gureum.hypervisors.qemu.hypervisor import QemuHypervisor
from gureum.hypervisors.qemu.rbd import confine, memory_file, rbd_node
from gureum.images.builder import build_tiny
from gureum.images.manifest import ImageManifest
from gureum.san.base import DiskSource, FileDisk, Layer, RbdDisk
from gureum.san.settings import SanSettings

KIB, MIB = 1 << 10, 1 << 20
LOADS = tuple(
    Load(operation, block_bytes < MIB, block_bytes, depth)
    for block_bytes in (4 * KIB, MIB)
    for operation in ("read", "write")
    for depth in (1, 16)
)
RANDOM_STEP_BYTES = 7 * MIB + 36 * KIB
"""qemu-img bench knows no chance: it goes on so far each time, and around at the end."""

FIRST_REQUESTS = {4 * KIB: 300, MIB: 40}
"""So many tell how many it takes for the wanted time."""
REQUESTS_MAX = 2_000_000
PEER_SECONDS_MAX = 300.0
DISK_BYTES = 512 * MIB
IMAGE = "bench-disk"
FIO_SECONDS = 0.7
"""About so long it takes to begin, under emulation."""
RATIO_LEAST = 0.9
_SECONDS = re.compile(r"Run completed in ([0-9.]+) seconds")


def measure(
    settings: SanSettings, directory: Path, daemons: Sequence[int], say: Say, *, quick: bool
) -> list[Figure]:
    """The cloud's pool in a cluster, and a local one. ``daemons``: the cluster's processes. Blocks."""
    say("the image tiny")
    manifest = asyncio.run(build_tiny(directory / "images", lambda step, share: None))
    local = directory / "local.raw"
    with open(local, "wb") as file:
        file.truncate(DISK_BYTES)
    pools: dict[str, tuple[DiskSource, Sequence[int]]] = {
        "local": (FileDisk(layers=(Layer(path=str(local), format="raw"),)), ()),
        "ceph": (_disk(settings), daemons),
    }
    rbd(settings, "create", IMAGE, "--size", f"{DISK_BYTES}B")
    seconds, rounds = (1.0, 1) if quick else (4.0, 3)
    found: list[Figure] = []
    try:
        for name, (source, processes) in pools.items():
            run = measure_disk(
                name, source, manifest, directory, processes, say, seconds=seconds, rounds=rounds
            )
            found += asyncio.run(run)
    finally:
        local.unlink(missing_ok=True)
        rbd(settings, "rm", IMAGE, "--no-progress")
    return found


def _disk(settings: SanSettings) -> RbdDisk:
    return RbdDisk(
        pool=settings.pool,
        image=IMAGE,
        conf=str(settings.conf),
        user=settings.user,
        keyring=str(settings.keyring),
    )


def rbd(settings: SanSettings, *words: str) -> str:
    """What the program says. Raises BenchError."""
    access = ("--conf", str(settings.conf), "--id", settings.user, "--keyring", str(settings.keyring))
    command = ["rbd", *access, "--pool", settings.pool, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PEER_SECONDS_MAX)
    if done.returncode != 0:
        raise BenchError(f"rbd {words[0]} failed: {done.stderr.strip()}")
    return done.stdout


def rbd_file(settings: SanSettings, image: str) -> str:
    """What QEMU's programs call it."""
    access = f"id={settings.user}:conf={settings.conf}:keyring={settings.keyring}"
    return f"rbd:{settings.pool}/{image}:{access}"


async def measure_disk(
    name: str,
    source: DiskSource,
    manifest: ImageManifest,
    directory: Path,
    daemons: Sequence[int],
    say: Say,
    *,
    accelerator: str = "tcg",
    seconds: float = 4.0,
    rounds: int = 3,
) -> list[Figure]:
    """Of one disk, ``name`` its pool's. It is written all over. ``daemons``: the storage's processes.

    Needs root. ``directory`` is for files of its own. Takes eight times ``rounds`` times twice ``seconds``.
    """
    archive = directory / f"disk-{name}.img"
    initrd(manifest, archive)
    hypervisor = QemuHypervisor(Env(), directory / f"disk-{name}", accelerator)
    await hypervisor.recover()
    try:
        fill = await asyncio.to_thread(_peer, source, Load("write", False, MIB, 16), 1.0)
        say(f"{name}: written all over at first, {fill:.0f} MiB/s")
        ours: dict[Load, list[float]] = {}
        theirs: dict[Load, list[float]] = {}
        used: dict[Load, Mapping[str, float]] = {}
        for _ in range(rounds):
            # Only one of the two may have the disk open: each round is a guest, and then the peer.
            async with disk_guest(hypervisor, manifest, archive, source) as guest:
                for load in LOADS:
                    rate, used[load] = await _guest(guest, load, seconds, daemons)
                    ours.setdefault(load, []).append(rate)
            for load in LOADS:
                rate = await asyncio.to_thread(_peer, source, load, seconds)
                theirs.setdefault(load, []).append(rate)
                say(f"{name}, {load.name}: {ours[load][-1]:,.0f} in the guest, {rate:,.0f} by qemu-img bench")
    finally:
        await hypervisor.close()
        archive.unlink(missing_ok=True)
    return [_figure(name, load, ours[load], theirs[load], used[load]) for load in LOADS]


def _figure(
    name: str, load: Load, ours: Sequence[float], theirs: Sequence[float], used: Mapping[str, float]
) -> Figure:
    busy = ", ".join(f"{who} {share:.2f}" for who, share in used.items())
    total = os.cpu_count() or 1
    limited = used["guest"] >= 0.9 or used["idle"] < 0.1 * total
    remark = f"of {total} cores: {busy}" + ("; the processor is the limit" if limited else "")
    return compare(
        f"{name}: {load.name}",
        "requests/s",
        ours,
        theirs,
        peer_name="qemu-img bench",
        promise=None if limited else Promise(limit=RATIO_LEAST, of="ratio", at="least"),
        remark=remark,
        paired=True,
    )


async def _guest(
    guest: DiskGuest, load: Load, seconds: float, daemons: Sequence[int]
) -> tuple[float, dict[str, float]]:
    """Requests a second, and what processes took of cores in the second half of it."""
    running = asyncio.create_task(guest.run(load, seconds))
    await asyncio.sleep(FIO_SECONDS + seconds / 2)
    before, began = _taken(guest.pid, daemons), time.monotonic()
    await asyncio.sleep(seconds / 2)
    lasted = time.monotonic() - began
    after = _taken(guest.pid, daemons)
    return await running, {who: (after[who] - before[who]) / lasted for who in after}


def _taken(guest: int, daemons: Sequence[int]) -> dict[str, float]:
    taken = {"guest": cpu_seconds(guest), "idle": _idle_seconds()}
    if daemons:
        taken["storage"] = sum(map(cpu_seconds, daemons))
    return taken


def _idle_seconds() -> float:
    """Of all cores together, since the machine started. Waiting for a disk is idle too (proc(5))."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return (int(fields[4]) + int(fields[5])) / TICKS


def _peer(source: DiskSource, load: Load, seconds: float) -> float:
    """Requests a second of qemu-img bench that runs about so long. Blocks."""
    count = FIRST_REQUESTS[load.block_bytes]
    count = int(min(REQUESTS_MAX, max(count, seconds * count / _bench(source, load, count))))
    return count / _bench(source, load, count)


def _bench(source: DiskSource, load: Load, count: int) -> float:
    """The seconds that so many requests take."""
    step = RANDOM_STEP_BYTES if load.random else load.block_bytes
    options = ["-c", str(count), "-d", str(load.depth), "-s", str(load.block_bytes), "-S", str(step)]
    if load.operation == "write":
        options.append("-w")
    if isinstance(source, RbdDisk):
        return _bench_rbd(source, options)
    return _run([*options, *_target(_file(source))], ())


def _file(source: FileDisk) -> dict[str, object]:
    if len(source.layers) != 1:
        raise BenchError("a disk to be measured is one file")
    layer = source.layers[0]
    return {"driver": layer.format, "file": {"driver": "file", "filename": layer.path, "aio": "threads"}}


def _bench_rbd(disk: RbdDisk, options: Sequence[str]) -> float:
    """With the cluster's configuration and the keyring by its path: qemu-img bench takes no secret."""
    conf = memory_file(
        "ceph.conf", f"{confine(Path(disk.conf).read_text(), disk.user)}keyring = {disk.keyring}\n"
    )
    node = rbd_node("image", disk, conf, "key")
    for option in ("node-name", "cache", "key-secret"):
        del node[option]
    try:
        return _run([*options, *_target({"driver": "raw", "file": node})], (conf,))
    finally:
        os.close(conf)


def _target(image: Mapping[str, object]) -> list[str]:
    return ["-t", "none", f"json:{json.dumps(image)}"]


def _run(arguments: Sequence[str], fds: Sequence[int]) -> float:
    done = subprocess.run(
        ["qemu-img", "bench", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=PEER_SECONDS_MAX,
        pass_fds=fds,
    )
    found = _SECONDS.search(done.stdout)
    if done.returncode != 0 or found is None:
        raise BenchError(f"qemu-img bench failed: {done.stderr.strip() or done.stdout.strip()}")
    return max(float(found[1]), 0.001)
