"""OSDs that are killed while a guest writes: how long it waits, how soon all is well, what was kept."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from gureum.bench import disk_io
from gureum.bench.checked_load import AREA_BYTES, BLOCK_BYTES, CheckedLoad
from gureum.bench.clouds import wait
from gureum.bench.figures import Figure, Say
from gureum.bench.requests import Endpoint, client
from gureum.bench.servers import BenchError
from gureum.cli import images
from gureum.cli.cloud import Cloud
from gureum.san.ceph.cluster import Cluster
from gureum.san.ceph.commands import ask
from gureum.san.ceph.pools import admin, is_well

KEY = "bench"
TYPE = "t3.nano"
KILLS = 10
BLOCKS = 20
"""Acknowledged before each kill, and after it."""
SECONDS_MAX = 120.0
COMMAND_SECONDS = 60.0
FILL_SECONDS = 300.0
OPTIONS = (
    "StrictHostKeyChecking=no",
    "UserKnownHostsFile=/dev/null",
    "LogLevel=ERROR",
    "ConnectTimeout=5",
    "BatchMode=yes",
    "IdentitiesOnly=yes",
)


class Writer(NamedTuple):
    """A guest that writes to one of its volumes."""

    load: CheckedLoad
    volume: str
    ec2: Any
    instance: str
    ssh: list[str]  # what runs one more word in the guest


def measure(cloud: Cloud, directory: Path, say: Say, *, quick: bool) -> list[Figure]:
    """``cloud`` runs, with a storage cluster of its own; ``directory`` is for what is needed meanwhile."""
    with writing(cloud, directory, say) as writer:
        load = writer.load
        kills = 3 if quick else KILLS
        stalls, recoveries = [], []
        osds = Cluster(cloud.state_dir).osds
        for number in range(kills):
            # By turns: the supervisor starts again later what has just been started.
            stall, recovery = killed(cloud, load, osds[number % len(osds)])
            stalls.append(stall)
            recoveries.append(recovery)
            say(f"kill {number + 1} of {kills}: writes stall {stall:.2f} s, well after {recovery:.1f} s")
        load.stop()
        if wrong := load.check(exported(cloud, writer.volume, directory)):
            raise BenchError(f"what the guest wrote is not there: {'; '.join(wrong[:3])}")
    return [
        Figure(
            name=f"longest stall of a guest's write, {kills} OSDs killed",
            value=max(stalls),
            unit="s",
            samples=tuple(stalls),
        ),
        Figure(name="OSD killed to HEALTH_OK", value=median(recoveries), unit="s", samples=tuple(recoveries)),
        Figure(
            name="bytes acknowledged meanwhile, all of them found again",
            value=load.written * BLOCK_BYTES / 1e6,
            unit="MB",
            remark=f"{load.written} writes, each flushed",
        ),
    ]


def killed(cloud: Cloud, load: CheckedLoad, osd: str) -> tuple[float, float]:
    """Seconds of the longest stall, and until all is well."""
    load.wait_written(BLOCKS, SECONDS_MAX)
    began = time.monotonic()
    os.kill(cloud.running_daemons()[osd].pid, signal.SIGKILL)
    wait(f"{osd} to be missed", lambda: not well(cloud), SECONDS_MAX)
    wait("the cluster to be well", lambda: well(cloud), SECONDS_MAX)
    recovery = time.monotonic() - began
    load.wait_written(BLOCKS, SECONDS_MAX)
    return load.stall(began), recovery


def well(cloud: Cloud) -> bool:
    return is_well(ask(admin(Cluster(cloud.state_dir)), [{"prefix": "status"}])[0].document())


class Guest(NamedTuple):
    """One that answers, with a volume beside its root disk. ``ssh``: what runs one more word in it."""

    instance: str
    volume: str
    ssh: list[str]


def launched(
    cloud: Cloud, directory: Path, image: str, count: int = 1, gib: int = 1, zone: str = ""
) -> list[Guest]:
    """Guests that answer. ``directory`` is for the key to them; ``zone`` "" for any."""
    ec2 = _client(cloud)
    key = _key(ec2, directory)
    asked = {"ImageId": image, "InstanceType": TYPE, "MinCount": count, "MaxCount": count, "KeyName": KEY}
    disk = {"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": gib, "DeleteOnTermination": True}}
    placed = {"Placement": {"AvailabilityZone": zone}} if zone else {}
    made = ec2.run_instances(**asked, **placed, BlockDeviceMappings=[disk])["Instances"]
    return [_answering(ec2, each["InstanceId"], key) for each in made]


def _answering(ec2: Any, id: str, key: Path) -> Guest:
    wait("the guest to run", lambda: _instance(ec2, id)["State"]["Name"] == "running", SECONDS_MAX)
    shown = _instance(ec2, id)
    ssh = ssh_command(key, shown["PublicIpAddress"])
    wait("the guest to answer", lambda: answers(ssh), SECONDS_MAX)
    volumes = {each["DeviceName"]: each["Ebs"]["VolumeId"] for each in shown["BlockDeviceMappings"]}
    return Guest(id, volumes["/dev/sdf"], ssh)


def tiny_image(cloud: Cloud) -> str:
    """Its id in the cloud, which has it from then on."""
    image = str(images.build(cloud.state_dir / "images", "tiny", refresh=False)["ImageId"])
    ec2 = _client(cloud)
    wait("the image", lambda: bool(_images(ec2, image)), SECONDS_MAX)
    return image


def _client(cloud: Cloud) -> Any:
    config = cloud.config()
    endpoint = Endpoint(port=config.port, access_key=config.access_key_id, secret=config.secret_access_key)
    return client(endpoint, "ec2")


@contextmanager
def writing(cloud: Cloud, directory: Path, say: Say, gib: int = 1) -> Iterator[Writer]:
    """A guest of its own with a volume of its own; one of more than 1 GiB is written all over before."""
    say("a guest that writes")
    image, ec2 = tiny_image(cloud), _client(cloud)
    [(id, volume, ssh)] = launched(cloud, directory, image, gib=gib)
    if gib > 1:
        fill = f"dd if=/dev/zero of=/dev/vdb bs=1M count={gib * 1024} conv=fsync"
        subprocess.run(
            [*ssh, fill], capture_output=True, stdin=subprocess.DEVNULL, timeout=FILL_SECONDS, check=True
        )
    with CheckedLoad(ssh, "/dev/vdb") as load:
        yield Writer(load, volume, ec2, id, ssh)
    ec2.terminate_instances(InstanceIds=[id])


def _key(ec2: Any, directory: Path) -> Path:
    """What one comes in with by SSH, which is let in; made once."""
    key = directory / "key"
    if not key.exists():
        key.touch(0o600)
        key.write_text(ec2.create_key_pair(KeyName=KEY, KeyType="ed25519")["KeyMaterial"])
        groups = ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": ["default"]}])
        ec2.authorize_security_group_ingress(
            GroupId=groups["SecurityGroups"][0]["GroupId"],
            IpProtocol="tcp",
            FromPort=22,
            ToPort=22,
            CidrIp="0.0.0.0/0",
        )
    return key


def ssh_command(key: Path, address: str) -> list[str]:
    flags = [flag for option in OPTIONS for flag in ("-o", option)]
    return ["ssh", "-F", "none", *flags, "-i", str(key), f"root@{address}"]


def _images(ec2: Any, id: str) -> Sequence[object]:
    found: Sequence[object] = ec2.describe_images(Filters=[{"Name": "image-id", "Values": [id]}])["Images"]
    return found


def _instance(ec2: Any, id: str) -> dict[str, Any]:
    found: dict[str, Any] = ec2.describe_instances(InstanceIds=[id])["Reservations"][0]["Instances"][0]
    return found


def answers(ssh: Sequence[str]) -> bool:
    done = subprocess.run(
        [*ssh, "true"], capture_output=True, stdin=subprocess.DEVNULL, timeout=COMMAND_SECONDS, check=False
    )
    return done.returncode == 0


def exported(cloud: Cloud, volume: str, directory: Path) -> bytes:
    """The beginning of the volume, as another client of the cluster reads it."""
    file = directory / "volume"
    file.unlink(missing_ok=True)
    disk_io.rbd(Cluster(cloud.state_dir).settings(), "export", "--no-progress", volume, str(file))
    with open(file, "rb") as disk:
        return disk.read(AREA_BYTES)
