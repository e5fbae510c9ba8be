"""A whole cloud whose disks are in a Ceph cluster of its own, and what is in its pool."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from gureum.bench.checked_load import AREA_BYTES, CheckedLoad
from gureum.cli import machine_hosts, storage
from gureum.cli.api import client
from gureum.cli.processes import Identity, read_pid_file
from gureum.cli.san_options import Choice
from gureum.env import CRASH_MARK_VARIABLE, CRASH_VARIABLE, Env
from gureum.errors import PoolError, PoolUnavailable
from gureum.images.manifest import ImageManifest
from gureum.san.ceph import audit
from gureum.san.ceph import client as workers
from gureum.san.ceph.cluster import Cluster
from gureum.san.ceph.commands import ask
from gureum.san.ceph.pool import RbdPool
from gureum.san.ceph.pools import admin
from gureum.san.ceph.process import Worker

from ..host import command_lines, difference, environment
from ..realcloud import CLOUDS, LOOK_SECONDS, OPTIONS, RealCloud

TIMEOUT_S = 60.0
LOOK_HOST = "check"
BALLAST_BYTES = 8 << 20


def quiet(_text: str) -> None:
    return


class SanCloud(RealCloud):
    def __init__(
        self,
        image: ImageManifest,
        osd_bytes: int,
        hosts: int = 1,
        types: Mapping[str, str] | None = None,
        **settings: str | int,
    ) -> None:
        super().__init__(image, hosts, **settings)
        self.directory.chmod(0o711)
        machine_hosts.change(self.cloud, hosts)
        storage.choose(self.cloud, Choice("ceph", osd_bytes=osd_bytes), types)
        self.cluster = Cluster(self.cloud.state_dir)

    def start(self, crash_at: Iterable[str] = (), mark: Path | None = None) -> None:
        storage.prepare(self.cloud, self.config, quiet)
        wanted = {CRASH_VARIABLE: ",".join(crash_at), CRASH_MARK_VARIABLE: str(mark or "")}
        with environment(wanted):
            self.cloud.start(self.config, quiet)
        storage.settle(self.cloud, quiet)
        super().start(crash_at, mark)

    # ---- its cluster

    def admin(self, prefix: str, **parameters: Any) -> Any:
        """What an administrator's command answers."""
        return ask(admin(self.cluster), [{"prefix": prefix, **parameters}], 5.0)[0].document()

    def is_well(self) -> bool:
        try:
            return bool(self.admin("health")["status"] == "HEALTH_OK")
        except PoolUnavailable:  # its monitor is just being started
            return False

    def wait_well(self) -> None:
        self.wait("the cluster to be well", self.is_well)

    @contextlib.contextmanager
    def halted(self, *daemons: str) -> Iterator[None]:
        pids = [self.pid(name) for name in daemons]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    @contextlib.contextmanager
    def held_down(self, *daemons: str) -> Iterator[None]:
        """Killed, and no start succeeds: each one's keyring is away."""
        keyrings = [self.cluster.daemon_dir(name) / "keyring" for name in daemons]
        for keyring in keyrings:
            keyring.rename(keyring.with_name("keyring.away"))
        try:
            self.kill(*daemons)
            yield
        finally:
            for keyring in keyrings:
                keyring.with_name("keyring.away").rename(keyring)

    def san_status(self) -> Mapping[str, Any]:
        """What `gureum san status` says."""
        from gureum.bench.clouds import launcher

        done = subprocess.run(
            [*launcher(), "san", "status", "--json", "--state-dir", str(self.cloud.state_dir)],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        return json.loads(done.stdout) if done.stdout else {"error": done.stderr, "code": done.returncode}

    def fill_volume(self, volume: str, share: float) -> None:
        """Write so much to a volume that the OSDs are filled to this share."""
        osd = self.san_status()["osds"][0]
        mib = int(osd["size"] * share - osd["used"]) >> 20
        self.rbd("bench", "--io-type", "write", "--io-size", "4M", "--io-total", f"{mib}M", volume)

    def fill(self, complaint: str) -> None:
        """Put objects into the pool until the cluster complains so."""
        ballast = self.directory / "ballast"
        ballast.write_bytes(bytes(BALLAST_BYTES))
        settings = self.cluster.settings()
        command = ["rados", "--conf", str(settings.conf), "--id", settings.user, "--pool", settings.pool]
        number = 0
        while complaint not in self.admin("health")["checks"]:
            # What is on its way when the cluster is full waits there.
            with contextlib.suppress(subprocess.TimeoutExpired):
                put = [*command, "put", f"ballast-{number}", str(ballast)]
                subprocess.run(put, timeout=5.0, check=True)
            number += 1

    def refusal(self, operation: str, **parameters: Any) -> str:
        """Code and message of the answer to a call that is not repeated; "" if it is not refused."""
        try:
            getattr(client(self.cloud, "ec2"), operation)(**parameters)
        except ClientError as error:
            return f"{error.response['Error']['Code']}: {error.response['Error']['Message']}"
        return ""

    @contextlib.contextmanager
    def cut(self, host: int) -> Iterator[None]:
        """Nothing goes between a host and the storage any more."""
        fabric = self.cloud.fabric(self.config)
        inside = ["ip", "netns", "exec", fabric.namespace(host), "nft"]
        rule = f"ip daddr {fabric.gateway} tcp dport 20000-26999 drop"
        chain = f"chain output {{ type filter hook output priority -300; {rule}; }}"
        text = f"table inet cut {{ {chain}\n}}\n"
        subprocess.run([*inside, text], check=True)
        try:
            yield
        finally:
            subprocess.run([*inside, "delete table inet cut"], check=True)

    @contextlib.contextmanager
    def watched(self, volume: str) -> Iterator[Callable[[], int]]:
        """How many had the volume open to write at once, at most, of all looks until the end."""
        most, ends = 0, threading.Event()

        def look() -> None:
            nonlocal most
            while not ends.wait(LOOK_SECONDS):
                most = max(most, len(self.watchers(volume)))

        looks = threading.Thread(target=look, daemon=True)
        looks.start()
        try:
            yield lambda: most
        finally:
            ends.set()
            looks.join(TIMEOUT_S)

    def watchers(self, volume: str) -> list[str]:
        status = json.loads(self.rbd("status", "--format", "json", volume))
        return [each["address"] for each in status["watchers"]]

    # ---- its hosts

    def host_of(self, instance: str) -> int:
        """The number of the host that runs it."""
        [found] = [run for run in self.cloud.host_run_dirs() if (run / "machines" / instance).is_dir()]
        return 0 if found == self.cloud.run_dir else int(found.parent.name)

    def kill_ready(self, role: str) -> None:
        """As soon as it runs."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.wait_process(role).pid, signal.SIGKILL)

    def wait_process(self, role: str) -> Identity:
        """The supervisor starts what was killed often later and later."""
        return self.wait(role, lambda: read_pid_file(self.cloud.run_dir / f"{role}.pid"))

    def kill_workers(self, after_s: float) -> None:
        """Those of its agents that work on the pool."""
        time.sleep(after_s)
        mark = str(self.cloud.state_dir).encode()
        for pid, command in command_lines():
            if b"rbdworker" in command and mark in command:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    # ---- its pool

    def rbd(self, *words: str, pool: str = "") -> str:
        settings = self.cluster.settings()
        command = [
            "rbd",
            "--conf",
            str(settings.conf),
            "--id",
            settings.user,
            "--pool",
            pool or settings.pool,
            *words,
        ]
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True).stdout

    def exported(self, volume: str, length: int = AREA_BYTES) -> bytes:
        """The first bytes of the volume, as another client of the cluster reads them."""
        file = self.directory / f"{volume}.export"
        self.rbd("export", "--no-progress", volume, str(file))
        try:
            with open(file, "rb") as exported:
                return exported.read(length)
        finally:
            file.unlink()

    def listing(self) -> audit.Listing:
        async def look() -> audit.Listing:
            settings = self.cluster.settings()
            found = workers.Client(Worker(workers.command(settings, self.config.name, LOOK_HOST)))
            try:
                return await audit.look(found)
            finally:
                await found.close()

        return asyncio.run(look())

    def leaks(self) -> list[str]:
        """Differences between what the API shows and what is in the pool, and who holds and has open what."""
        try:
            listing = self.listing()
        except Exception as error:
            return [f"the pool cannot be looked at: {error}"]
        volumes = {item["VolumeId"]: item for item in self.ec2.describe_volumes()["Volumes"]}
        volumes = {id: item for id, item in volumes.items() if item["State"] != "error"}
        snapshots = {
            item["SnapshotId"]
            for item in self.ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]
            if item["VolumeId"].startswith("vol-") and item["VolumeId"] != "vol-ffffffff"
        }
        images = [image for image in listing.images if image.name.startswith("vol-")]
        live = {
            item["InstanceId"]
            for page in self.ec2.describe_instances()["Reservations"]
            for item in page["Instances"]
            if item["State"]["Name"] == "running"
        }
        held = {
            id for id, item in volumes.items()
            if any(each["InstanceId"] in live for each in item["Attachments"])
        }  # fmt: skip
        open_ = [(image.name, len(image.watchers)) for image in images]
        return [
            *listing.other,
            *difference("volume", volumes, {image.name for image in images if not image.deleted}),
            *difference("snapshot", snapshots, {snap for image in images for snap in image.snapshots}),
            *(f"husk {image.name}" for image in images if image.deleted and not image.snapshots),
            *difference("lock", held, {image.name for image in images if image.holder}),
            *difference("watcher", {(id, 1) for id in held}, {each for each in open_ if each[1]}),
        ]

    def steal(self, volume: str, host: int) -> str:
        """Open a volume as the agent of a host would that is told an old spec; why not, "" if it may."""

        async def open_volume() -> str:
            pool = RbdPool(Env(), self.cluster.settings(), self.config.name, f"host-{host}")
            try:
                await pool.open_volume(volume)
                return ""
            except PoolError as error:
                return str(error)
            finally:
                await pool.close()

        return asyncio.run(open_volume())

    # ---- guests

    def load(self, instance: str, volume: str) -> CheckedLoad:
        device = self.device(instance, volume)
        flags = [word for name, value in OPTIONS.items() for word in ("-o", f"{name}={value}")]
        address = self.instance(instance)["PublicIpAddress"]
        ssh = ["ssh", "-F", "none", *flags, "-i", str(self.key_file), f"root@{address}"]
        return CheckedLoad(ssh, device)

    def read_in_guest(self, instance: str, volume: str) -> str:
        """The checksum of what the load wrote, read from the disk and not from the guest's memory."""
        device = self.device(instance, volume)
        self.ssh(instance, "echo 3 >/proc/sys/vm/drop_caches")
        return self.ssh(instance, f"head -c {AREA_BYTES} {device} | sha256sum").split()[0]

    def kernel_complaints(self, instance: str) -> list[str]:
        said = self.ssh(instance, "dmesg").splitlines()
        words = ("i/o error", "remount", "abort", "ext4-fs error", "buffer error", "critical")
        return [line for line in said if any(word in line.lower() for word in words)]

    def told(self, instance: str) -> tuple[str, list[str]]:
        """State of the instance's check, and the words that explain it."""
        [shown] = self.ec2.describe_instance_status(InstanceIds=[instance])["InstanceStatuses"]
        return str(shown["InstanceStatus"]["Status"]), [each["Description"] for each in shown["Events"]]

    def told_of_volume(self, volume: str) -> str:
        """Why it is impaired, "" if it is not."""
        [shown] = self.ec2.describe_volume_status(VolumeIds=[volume])["VolumeStatuses"]
        if shown["VolumeStatus"]["Status"] != "impaired":
            return ""
        return "; ".join(each["Description"] for each in shown["Events"])


@contextlib.contextmanager
def opened(
    image: ImageManifest,
    osd_bytes: int,
    hosts: int = 1,
    types: Mapping[str, str] | None = None,
    **settings: str | int,
) -> Iterator[SanCloud]:
    made = SanCloud(image, osd_bytes, hosts, types, **settings)
    CLOUDS.append(made)
    try:
        yield made
    finally:
        CLOUDS.remove(made)
        left = made.close()
    assert left == [], left
