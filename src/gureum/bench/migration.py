"""A guest that migrates between two hosts of this machine: how long it takes and how long it is away.

One that is idle, against two QEMUs by hand, and one that writes to its memory all the while.
"""

from __future__ import annotations

import itertools
import re
import signal
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from gureum.bench import rawqemu, san, san_faults
from gureum.bench.clouds import wait
from gureum.bench.figures import Figure, Promise, Say, compare
from gureum.bench.launch import last_line
from gureum.bench.rawmigration import RawPair
from gureum.bench.servers import BenchError, free_port
from gureum.cli.api import client
from gureum.cli.cloud import Cloud
from gureum.control.images import image_id
from gureum.images.library import newest
from gureum.san.settings import SanSettings

TYPE = "t3.nano"
HOSTS = 4
"""The first and the last are in the same zone."""
ROUNDS = 9
PING_SECONDS = 0.002
IDLE_SECONDS = 5.0
"""Before each way. Where this machine is itself a guest, memory that was let go of is given back two seconds
later. Who begins before that, as QEMU by hand did up to 0.10.0, finds it there yet: 0.4 s instead of 0.6.
"""
NEAR_SECONDS = 0.1
"""Of the switch: the guest is held a little before, and the way to it is led elsewhere a little after."""
SECONDS_MAX = 180.0
ENDED = ("completed", "failed", "cancelled")
DIRTIED_MIB = 48
DIRTY_ROUNDS = 9
DIRTY = (
    "mkdir -p /tmp/m && mount -t tmpfs -o size={size}m none /tmp/m && cd /tmp/m"
    " && dd if=/dev/urandom of=a bs=1M count={half} 2>/dev/null && cp a b && echo ready"
    " && while :; do dd if=a of=b bs=1M conv=notrunc 2>/dev/null; echo; done"
)
"""For a guest's shell: writes over half of so much memory, again and again, and says a line each time."""
AWAY = Promise(limit=10.0)
DIRTY_AWAY = Promise(limit=50.0)
TOTAL = Promise(limit=1.3, of="ratio")


class Taken(NamedTuple):
    """``seconds``: of the record, from the call to its end; ``copy_seconds``: of them, those in which QEMU
    sent the guest, by its count. ``gap_ms``: the longest between two answers to pings;
    ``last_gap_ms``: the longest of those about the moment at which it became the other host's.
    """

    seconds: float
    copy_seconds: float
    downtime_ms: float
    gap_ms: float
    last_gap_ms: float
    copied_bytes: int


def measure(directory: Path, say: Say, *, quick: bool) -> list[Figure]:
    """By turns: ours, by hand, ours, by hand ... after one of each that does not count. Pings, which a guest
    answers with the processors that its way needs, are sent on ways of their own.
    """
    rounds = 3 if quick else ROUNDS
    with san.san_cloud() as cloud:
        san.up(
            *(cloud, "--san", "ceph", "--san-size", san.OSD_SIZE, "--hosts", str(HOSTS)),
            *("--port", str(free_port())),
        )
        with guest(cloud, directory, say) as (instance, address, pair):
            ours, raw, pinged = [], [], []
            for number in range(rounds + 1):
                time.sleep(IDLE_SECONDS)
                taken = migrate(cloud, instance)
                time.sleep(IDLE_SECONDS)
                moved = pair.move()
                say(
                    f"{_round(number, rounds)}: {taken.seconds:.2f} s (by QEMU's count "
                    f"{taken.copy_seconds:.2f}), held {taken.downtime_ms:.0f} ms; "
                    f"by hand {moved.seconds:.2f} s ({moved.copy_seconds:.2f}), "
                    f"held {moved.downtime_ms:.0f} ms"
                )
                if number:
                    ours.append(taken)
                    raw.append(moved)
            for number in range(1, rounds + 1):
                time.sleep(IDLE_SECONDS)
                taken = migrate(cloud, instance, address)
                say(
                    f"with pings, {_round(number, rounds)}: {taken.seconds:.2f} s, "
                    f"held {taken.downtime_ms:.0f} ms, gap {taken.gap_ms:.0f} ms, "
                    f"in the end {taken.last_gap_ms:.0f} ms"
                )
                pinged.append(taken)
        dirty = measure_dirty(cloud, directory, say, 3 if quick else DIRTY_ROUNDS)
    peer = "QEMU by hand"
    what = "migration of an idle guest of 512 MiB"
    held = [each.downtime_ms for each in ours]
    return [
        compare(
            *(f"{what}: from the call to its end", "s"),
            *([each.seconds for each in ours], [each.seconds for each in raw]),
            peer_name=f"{peer}, its start and end included",
            promise=TOTAL,
            paired=True,
        ),
        compare(
            *(f"{what}: of that, the sending, by QEMU's count of both", "s"),
            *([each.copy_seconds for each in ours], [each.copy_seconds for each in raw]),
            peer_name=f"{peer}, without TLS",
            paired=True,
        ),
        compare(
            *(f"{what}: all the rest", "s"),
            *([each.seconds - each.copy_seconds for each in ours],),
            *([each.seconds - each.copy_seconds for each in raw],),
            peer_name=peer,
        ),
        compare(
            *(f"{what}: downtime by QEMU's count", "ms", held, [each.downtime_ms for each in raw]),
            peer_name=peer,
            promise=AWAY,
        ),
        compare(
            *(f"{what}: longest gap of a ping every 2 ms", "ms", [each.gap_ms for each in pinged]),
            promise=AWAY,
        ),
        compare(
            *(f"{what}: the same, at its end", "ms", [each.last_gap_ms for each in pinged]),
            promise=AWAY,
        ),
        compare(
            *(f"{what}: memory sent", "MB"),
            *([each.copied_bytes / 1e6 for each in ours], [each.copied_bytes / 1e6 for each in raw]),
            peer_name=peer,
        ),
        *dirty,
    ]


def measure_dirty(cloud: Cloud, directory: Path, say: Say, rounds: int) -> list[Figure]:
    """Of a guest that writes over so much of its memory all the time."""
    say("a guest that writes to its memory")
    zone = f"{cloud.config().region}a"
    [found] = san_faults.launched(cloud, directory, san_faults.tiny_image(cloud), zone=zone)
    address = found.ssh[-1].rpartition("@")[2]
    taken, rates = [], []
    with dirtying(found.ssh) as written:
        for number in range(rounds + 1):
            before, began = written(), time.monotonic()
            time.sleep(IDLE_SECONDS)
            rate = (written() - before) * DIRTIED_MIB / (time.monotonic() - began)
            each = migrate(cloud, found.instance, address)
            say(
                f"{_round(number, rounds)}: at {rate:.0f} MiB/s, {each.seconds:.2f} s, "
                f"held {each.downtime_ms:.0f} ms, gap in the end {each.last_gap_ms:.0f} ms, "
                f"{each.copied_bytes / 1e6:.0f} MB sent"
            )
            if number:
                taken.append(each)
                rates.append(rate)
    remark = f"{DIRTIED_MIB} MiB over and over, {min(rates):.0f} to {max(rates):.0f} MiB/s"
    what = "migration of a guest that writes to its memory"
    return [
        compare(
            *(f"{what}: downtime by QEMU's count", "ms", [each.downtime_ms for each in taken]),
            promise=DIRTY_AWAY,
            remark=remark,
        ),
        compare(*(f"{what}: from the call to its end", "s", [each.seconds for each in taken])),
    ]


def _round(number: int, rounds: int) -> str:
    return f"{number} of {rounds}" if number else "the first, which does not count"


@contextmanager
def dirtying(ssh: Sequence[str]) -> Iterator[Callable[[], int]]:
    """Gives how often all of it has been written over so far."""
    process = subprocess.Popen(
        [*ssh, DIRTY.format(size=2 * DIRTIED_MIB + 8, half=DIRTIED_MIB)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    turns: deque[int] = deque([0], maxlen=1)
    output = process.stdout
    reader = threading.Thread(target=lambda: turns.extend(n for n, _ in enumerate(output, 1)), daemon=True)
    try:
        if output.readline().strip() != b"ready":
            raise BenchError("the guest does not write to its memory")
        reader.start()
        yield lambda: turns[-1]
    finally:
        process.terminate()
        process.wait(SECONDS_MAX)
        if reader.ident is not None:
            reader.join(SECONDS_MAX)
        output.close()


@contextmanager
def guest(cloud: Cloud, directory: Path, say: Say) -> Iterator[tuple[str, str, RawPair]]:
    """An idle guest of ours, its public address, and one by hand like it."""
    say("two idle guests")
    image = san_faults.tiny_image(cloud)
    manifest = newest(cloud.state_dir / "images", lambda found: image_id(found) == image)
    if manifest is None or manifest.first_line is None:
        raise BenchError("the image has no first line to wait for")
    ec2, zone = client(cloud, "ec2"), f"{cloud.config().region}a"
    groups = ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": ["default"]}])
    permission = {"IpProtocol": "icmp", "FromPort": -1, "ToPort": -1, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    ec2.authorize_security_group_ingress(
        GroupId=groups["SecurityGroups"][0]["GroupId"], IpPermissions=[permission]
    )
    [made] = ec2.run_instances(
        ImageId=image,
        InstanceType=TYPE,
        MinCount=1,
        MaxCount=1,
        Placement={"AvailabilityZone": zone},
    )["Instances"]
    id = made["InstanceId"]

    def shown() -> dict[str, Any]:
        found: dict[str, Any] = ec2.describe_instances(InstanceIds=[id])["Reservations"][0]["Instances"][0]
        return found

    wait("the guest to run", lambda: shown()["State"]["Name"] == "running", SECONDS_MAX)
    address = shown()["PublicIpAddress"]
    wait("the guest to answer", lambda: _answers(address), SECONDS_MAX)
    pair = RawPair(directory / "raw", _command(id), manifest, SanSettings.load(cloud.state_dir))
    try:
        last_line([pair.console], manifest.first_line)
        time.sleep(2 * IDLE_SECONDS)
        yield id, address, pair
    finally:
        pair.end()
    ec2.terminate_instances(InstanceIds=[id], SkipOsShutdown=True)


def _answers(address: str) -> bool:
    command = ["ping", "-c", "1", "-W", "1", address]
    return subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode == 0


def _command(instance: str) -> list[str]:
    """How its QEMU was started, before it ever migrated."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = rawqemu.command_of(int(path.name))
        except OSError:
            continue
        if "qemu-system" in command[0] and any(f"guest={instance}," in argument for argument in command):
            return command
    raise BenchError(f"{instance} has no hypervisor process")


class Pings:
    """The times of answers to a ping every few milliseconds."""

    def __init__(self, address: str) -> None:
        command = ["ping", "-D", "-n", "-i", str(PING_SECONDS), address]
        # No pipe: it would be full after two seconds, and then there are no pings.
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed in ``end``)
        self._process = subprocess.Popen(command, stdout=self._said)

    def end(self) -> str:
        """What it has printed."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(SECONDS_MAX)
        with self._said as file:
            file.seek(0)
            return file.read()


def longest_gap(said: str, about: float | None = None) -> float:
    """Seconds between two answers, in what `ping -D` has printed. ``about``: of those gaps that end or begin
    within NEAR_SECONDS of this Unix time.
    """
    times = [float(at) for at in re.findall(r"^\[([0-9.]+)\] .*time=", said, re.MULTILINE)]
    gaps = [
        after - before
        for before, after in itertools.pairwise(times)
        if about is None or before - NEAR_SECONDS <= about <= after + NEAR_SECONDS
    ]
    if not gaps:
        raise BenchError("the guest answers no ping")
    return max(gaps)


def migrate(cloud: Cloud, instance: str, address: str = "") -> Taken:
    """To the other host of its zone, while this address is pinged."""
    fleet = client(cloud, "fleet")
    pings = Pings(address) if address else None
    try:
        time.sleep(1.0)
        id = fleet.migrate_instance(InstanceId=instance)["InstanceMigration"]["MigrationId"]

        def found() -> dict[str, Any]:
            [record] = fleet.describe_instance_migrations(MigrationIds=[id])["InstanceMigrations"]
            return dict(record)

        wait("the migration to end", lambda: found()["State"] in ENDED, SECONDS_MAX)
        record = found()
        time.sleep(1.0)
    finally:
        said = pings.end() if pings is not None else ""
    if record["State"] != "completed":
        raise BenchError(f"{id} {record['State']}: {record.get('Message', '')}")
    seconds = (record["EndTime"] - record["StartTime"]).total_seconds()
    return Taken(
        seconds,
        record["CopyMilliseconds"] / 1000,
        record["DowntimeMilliseconds"],
        longest_gap(said) * 1000 if address else 0.0,
        longest_gap(said, record["SwitchTime"].timestamp()) * 1000 if address else 0.0,
        record.get("CopiedBytes", 0),
    )
