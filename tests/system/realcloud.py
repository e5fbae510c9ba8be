"""A whole cloud under test: its own processes, guests and networks, driven through its public API."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from gureum.bench import leftovers
from gureum.cli.api import client
from gureum.cli.cloud import Cloud, last_lines
from gureum.cli.config import CloudConfig, default_base
from gureum.cli.processes import read_pid_file
from gureum.control.images import image_id
from gureum.env import CRASH_MARK_VARIABLE, CRASH_VARIABLE, Env
from gureum.errors import NetworkError
from gureum.images.manifest import ImageManifest
from gureum.network.names import tap_name
from gureum.san.local import LocalPool

from .host import command_lines, difference, environment, free_port

T = TypeVar("T")

GIB = 1 << 30
WAIT_SECONDS = 180.0
CONSOLE_CHARACTERS = 2000
LOOK_SECONDS = 0.2
KEY = "system-test"
IMAGE_VOLUME = "vol-ffffffff"
"""What is shown as the volume of an image's snapshot: the image is in the pool under its own name."""

OPTIONS = {
    "StrictHostKeyChecking": "no",
    "UserKnownHostsFile": "/dev/null",
    "LogLevel": "ERROR",
    "ConnectTimeout": "20",
    "BatchMode": "yes",
    "IdentitiesOnly": "yes",
}

Item = dict[str, Any]


class GuestError(Exception):
    """A command in a guest failed, or the guest could not be reached."""


class RealCloud:
    """One cloud in a directory of its own. ``close`` ends it and says what it left behind."""

    def __init__(self, image: ImageManifest, hosts: int = 1, **settings: str | int) -> None:
        # Not the test's own temporary directory: sockets need a short path, guests' users a passable one.
        self.directory = Path(tempfile.mkdtemp(prefix="gureum-test-", dir="/var/tmp"))
        self.cloud = Cloud(self.directory / "cloud")
        self.config: CloudConfig = self.cloud.configure(port=free_port(), hosts=hosts, **settings)
        self.image = image_id(image)
        self.key_file = self.directory / "key"
        images = self.cloud.state_dir / "images"
        images.mkdir()
        (images / Path(image.disk).parent.name).symlink_to(Path(image.disk).parent)
        self.ec2 = self._client()
        self.started = False
        self._booted: set[str] = set()
        self.pool_mount: Path | None = None

    def _client(self) -> Any:
        return boto3.client(
            "ec2",
            endpoint_url=self.config.endpoint,
            region_name=self.config.region,
            aws_access_key_id=self.config.access_key_id,
            aws_secret_access_key=self.config.secret_access_key,
            config=Config(
                connect_timeout=5, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 10}
            ),
        )

    def fleet(self, operation: str, **parameters: Any) -> Item:
        """A call of the Fleet API."""
        found: Item = getattr(client(self.cloud, "fleet"), operation)(**parameters)
        return found

    def mount_pool(self, size_bytes: int) -> None:
        """Give the pool a file system of its own. Before the first start."""
        file = self.directory / "pool.ext4"
        with open(file, "wb") as disk:
            disk.truncate(size_bytes)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(file)], check=True)
        self.pool_mount = self.cloud.state_dir / "pool"
        self.pool_mount.mkdir()
        subprocess.run(["mount", "-o", "loop", str(file), str(self.pool_mount)], check=True)

    # ---- its processes

    def start(self, crash_at: Iterable[str] = (), mark: Path | None = None) -> None:
        """Start what does not run; its processes die at the crash points named, once at each."""
        wanted = {CRASH_VARIABLE: ",".join(crash_at), CRASH_MARK_VARIABLE: str(mark or "")}
        with environment(wanted):
            self.cloud.start(self.config, lambda _text: None)
        if not self.started:
            self.started = True
            pair = self.ec2.create_key_pair(KeyName=KEY, KeyType="ed25519")
            with open(os.open(self.key_file, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
                file.write(pair["KeyMaterial"])
            self.allow_from_anywhere("tcp", 22)

    def stop(self) -> None:
        """Stop the processes; guests go on."""
        self.cloud.stop_processes()

    def pid(self, role: str) -> int:
        identity = read_pid_file(self.cloud.run_dir / f"{role}.pid")
        assert identity is not None, f"the {role} does not run"
        return identity.pid

    def kill(self, *roles: str) -> None:
        for role in roles:
            os.kill(self.pid(role), signal.SIGKILL)

    def close(self) -> list[str]:
        """End everything. Returns what is left on the machine, which is then removed all the same."""
        try:
            self.cloud.stop_processes()
            self.cloud.evacuate()
            return self.leftovers()
        finally:
            self.sweep()

    def leftovers(self) -> list[str]:
        return leftovers.leftovers(self.cloud)

    def namespaces(self, *kinds: str) -> list[Path]:
        """The network namespaces of this cloud's VPCs, or of other kinds, on all its hosts."""
        return leftovers.namespaces(self.cloud, *kinds or ("gm",))

    def processes(self) -> list[int]:
        """Everything on the machine that was started with this cloud's directory on its command line."""
        return leftovers.processes(self.cloud)

    def sweep(self) -> None:
        for pid in {*self.processes(), *self.qemu_pids().values()}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for path in self.namespaces("gm", "gn", "gh"):
            subprocess.run(["ip", "netns", "delete", path.name], check=False)
        with contextlib.suppress(NetworkError):
            self.cloud.fabric(self.config).remove()
        if self.pool_mount is not None:
            subprocess.run(["umount", str(self.pool_mount)], check=False)
        shutil.rmtree(self.directory, ignore_errors=True)
        for claim in (default_base() / "indexes").iterdir():
            if claim.is_symlink() and claim.readlink().is_relative_to(self.directory):
                claim.unlink()

    def qemu_pids(self) -> dict[str, int]:
        """The hypervisor process of each machine."""
        found = {}
        runs = self.cloud.host_run_dirs()
        for pid, command in command_lines():
            guest = re.search(rb"\bguest=(i-[0-9a-f]{17})\b", command)
            if b"qemu-system" in command.partition(b"\0")[0] and guest is not None:
                id = guest[1].decode()
                if any((run / "machines" / id).is_dir() for run in runs):
                    assert id not in found, f"{id} runs twice"
                    found[id] = pid
        return found

    # ---- its API

    def waiter(self, name: str, **parameters: Any) -> None:
        self.ec2.get_waiter(name).wait(
            **parameters,
            WaiterConfig={"Delay": LOOK_SECONDS, "MaxAttempts": int(WAIT_SECONDS / LOOK_SECONDS)},
        )

    def launch(self, count: int = 1, **parameters: Any) -> list[str]:
        asked: Item = {
            "ImageId": self.image,
            "InstanceType": "t3.nano",
            "MinCount": count,
            "MaxCount": count,
            "KeyName": KEY,
            **parameters,
        }
        return [item["InstanceId"] for item in self.ec2.run_instances(**asked)["Instances"]]

    def instance(self, id: str) -> Item:
        found: Item = self.ec2.describe_instances(InstanceIds=[id])["Reservations"][0]["Instances"][0]
        return found

    def state(self, id: str) -> str:
        return str(self.instance(id)["State"]["Name"])

    def volume(self, id: str) -> Item:
        found: Item = self.ec2.describe_volumes(VolumeIds=[id])["Volumes"][0]
        return found

    def root_volume(self, instance: str) -> str:
        return str(self.instance(instance)["BlockDeviceMappings"][0]["Ebs"]["VolumeId"])

    def default_group(self) -> str:
        groups = self.ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": ["default"]}])
        return str(groups["SecurityGroups"][0]["GroupId"])

    def allow_from_anywhere(self, protocol: str, port: int) -> None:
        self.ec2.authorize_security_group_ingress(
            GroupId=self.default_group(),
            IpProtocol=protocol,
            FromPort=port,
            ToPort=port,
            CidrIp="0.0.0.0/0",
        )

    def create_volume(self, **parameters: Any) -> str:
        asked = {"AvailabilityZone": f"{self.config.region}a", **parameters}
        volume = str(self.ec2.create_volume(**asked)["VolumeId"])
        self.waiter("volume_available", VolumeIds=[volume])
        return volume

    def attach(self, volume: str, instance: str, device: str = "/dev/sdf") -> None:
        self.ec2.attach_volume(VolumeId=volume, InstanceId=instance, Device=device)
        self.wait_attached(volume)

    def wait_attached(self, volume: str) -> None:
        self.wait(
            f"{volume} to be attached",
            lambda: [item["State"] for item in self.volume(volume)["Attachments"]] == ["attached"],
        )

    def wait_snapshot(self, snapshot: str) -> None:
        self.waiter("snapshot_completed", SnapshotIds=[snapshot])

    def console(self, id: str) -> str:
        return str(self.ec2.get_console_output(InstanceId=id, Latest=True).get("Output", ""))

    def gone(self, volume: str) -> bool:
        listed = self.ec2.describe_volumes(Filters=[{"Name": "volume-id", "Values": [volume]}])
        return not listed["Volumes"]

    # ---- its guests

    def ssh(self, id: str, command: str, *options: str) -> str:
        """What a command in the guest prints. Raises GuestError."""
        address = self.instance(id).get("PublicIpAddress")
        if not address:
            raise GuestError(f"{id} has no public address")
        return self.ssh_to(address, command, *options)

    def ssh_to(self, address: str, command: str, *options: str) -> str:
        flags = [word for name, value in OPTIONS.items() for word in ("-o", f"{name}={value}")]
        argv = ["ssh", "-F", "none", *options, *flags, "-i", str(self.key_file), f"root@{address}", command]
        try:
            done = subprocess.run(
                argv, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, check=False
            )
        except subprocess.TimeoutExpired:
            raise GuestError(f"{command!r} did not end") from None
        if done.returncode != 0:
            raise GuestError(f"{command!r}: exit status {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout.strip()

    def try_ssh(self, id: str, command: str) -> str:
        """One of many attempts, so a short one; "" if it fails."""
        try:
            return self.ssh(id, command, "-o", "ConnectTimeout=5")
        except GuestError:
            return ""

    def wait_ssh(self, id: str, command: str = "echo ready") -> str:
        """The first output of a command that the guest answers with."""
        # Key exchanges cost an emulated guest much: the first boot is left alone until it is over.
        if id not in self._booted:
            self._wait_booted(id)
            self._booted.add(id)
        return self.wait(f"{id} to answer {command!r}", lambda: self.try_ssh(id, command))

    def _wait_booted(self, id: str) -> None:
        try:
            self.wait(f"{id} to boot", lambda: f"instance {id}, ready" in self.console(id))
        except pytest.fail.Exception as error:
            pytest.fail(f"{error}; the end of its console: {self.console(id)[-CONSOLE_CHARACTERS:]!r}")

    def boot_id(self, id: str) -> str:
        return self.wait_ssh(id, "cat /proc/sys/kernel/random/boot_id")

    def device(self, instance: str, volume: str) -> str:
        """The guest's device for a volume, by its serial number, of which virtio has 20 characters."""
        serial = volume.replace("-", "")[:20]
        find = f'for d in /sys/block/vd*; do [ "$(cat $d/serial)" = {serial} ] && echo /dev/${{d##*/}}; done'
        return self.wait_ssh(instance, f"{find}; true")

    # ---- its pool

    def check_pool(self) -> list[str]:
        """What is wrong in the pool, by its own check. The agent must not run."""

        async def check() -> list[str]:
            pool = LocalPool(Env(), self.cloud.state_dir / "pool")
            try:
                return await pool.check(repair=False)
            finally:
                await pool.close()

        return asyncio.run(check())

    def leaks(self) -> list[str]:
        """Differences between what the API shows and what is on the host, in both directions."""
        instances = [
            item
            for page in self.ec2.describe_instances()["Reservations"]
            for item in page["Instances"]
            if item["State"]["Name"] != "terminated"
        ]
        running = {item["InstanceId"] for item in instances if item["State"]["Name"] == "running"}
        taps = {
            tap_name(interface["NetworkInterfaceId"])
            for item in instances
            if item["State"]["Name"] == "running"
            for interface in item["NetworkInterfaces"]
        }
        volumes = {item["VolumeId"] for item in self.ec2.describe_volumes()["Volumes"]}
        snapshots = {
            item["SnapshotId"]
            for item in self.ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]
            if item["VolumeId"] != IMAGE_VOLUME
        }
        runs = self.cloud.host_run_dirs()
        records = {path.stem for run in runs for path in (run.parent / "pool/records").glob("*.json")}
        machines = {path.name for run in runs for path in (run / "machines").glob("i-*")}
        return [
            *difference("QEMU process", running, self.qemu_pids().keys()),
            *difference("volume in the pool", volumes, {id for id in records if id.startswith("vol-")}),
            *difference("snapshot in the pool", snapshots, {id for id in records if id.startswith("snap-")}),
            *difference("machine's directory", {item["InstanceId"] for item in instances}, machines),
            *difference("tap", taps, self.taps()),
        ]

    def taps(self) -> set[str]:
        """Names of all taps in this cloud's namespaces."""
        names: set[str] = set()
        for path in self.namespaces():
            listed = subprocess.run(
                ["ip", "-n", path.name, "-o", "link", "show", "type", "tun"],
                capture_output=True,
                text=True,
                check=False,
            )
            # A VPC without ports is removed, perhaps between the two looks.
            assert listed.returncode == 0 or not path.exists(), listed.stderr
            names |= {line.split()[1].rstrip(":") for line in listed.stdout.splitlines()}
        return names

    # ---- waiting

    def wait_clean(self) -> None:
        """Until nothing is left over or missing; fails the test where something stays so, and says what."""
        found: list[str] = []

        def look() -> bool:
            found[:] = self.leaks()
            return not found

        try:
            self.wait("nothing to be left over or missing", look)
        except pytest.fail.Exception as error:
            pytest.fail(f"{error}: {found}")

    def wait(self, what: str, look: Callable[[], T], seconds: float = WAIT_SECONDS) -> T:
        """The first true answer of ``look``; fails the test where there is none in time."""
        deadline = time.monotonic() + seconds
        while True:
            found = look()
            if found:
                return found
            if time.monotonic() > deadline:
                pytest.fail(f"waited {seconds:g} s in vain for {what}; the last look said {found!r}")
            time.sleep(LOOK_SECONDS)

    def logs(self, lines: int = 60) -> Mapping[str, str]:
        return {
            name: "\n".join(last_lines(self.cloud.log_dir / f"{name}.log", lines))
            for name in ("supervisor", *self.cloud.roles)
        }


CLOUDS: list[RealCloud] = []
"""Those that run now."""


@contextlib.contextmanager
def opened(image: ImageManifest, hosts: int = 1, **settings: str | int) -> Iterator[RealCloud]:
    """A cloud that is not yet started; nothing may be left of it at the end."""
    if os.geteuid() != 0 or shutil.which("qemu-system-x86_64") is None:
        pytest.skip("needs root and qemu-system-x86_64")
    made = RealCloud(image, hosts, **settings)
    CLOUDS.append(made)
    try:
        yield made
    except BaseException as error:
        for name, text in made.logs().items():
            error.add_note(f"--- {name}.log\n{text}")
        raise
    finally:
        CLOUDS.remove(made)
        left = made.close()
    assert left == [], left


@contextlib.contextmanager
def refused(code: str) -> Iterator[None]:
    """The call in the block must be answered with this error code."""
    with pytest.raises(ClientError) as caught:
        yield
    error = caught.value.response["Error"]
    assert error["Code"] == code, f"{error['Code']}: {error['Message']}"
