"""A full disk, a halted agent, a manager that dies under load: what was acknowledged holds, guests go on."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from gureum.images.manifest import ImageManifest

from .realcloud import RealCloud, opened

pytestmark = [pytest.mark.qemu, pytest.mark.root, pytest.mark.timeout(600)]

MIB = 1 << 20
POOL_MIB = 900
BALLAST_MIB = 400
WRITE_MIB = 550
HALT_SECONDS = 10.0


@pytest.fixture(scope="module")
def guest(cloud: RealCloud) -> str:
    [id] = cloud.launch()
    cloud.waiter("instance_running", InstanceIds=[id])
    cloud.wait_ssh(id)
    return id


def test_guests_do_not_notice_a_halted_agent(cloud: RealCloud, guest: str) -> None:
    """Halted for longer than its lease lasts."""
    boot, process = cloud.boot_id(guest), cloud.qemu_pids()[guest]
    agent = cloud.pid("agent")
    os.kill(agent, signal.SIGSTOP)
    try:
        volume = cloud.ec2.create_volume(AvailabilityZone=f"{cloud.config.region}a", Size=1)["VolumeId"]
        until = time.monotonic() + HALT_SECONDS
        while time.monotonic() < until:
            assert cloud.state(guest) == "running"
            assert cloud.ssh(guest, "cat /proc/sys/kernel/random/boot_id") == boot
            time.sleep(1)
    finally:
        os.kill(agent, signal.SIGCONT)
    cloud.waiter("volume_available", VolumeIds=[volume])
    cloud.attach(volume, guest)
    assert cloud.device(guest, volume)
    assert cloud.boot_id(guest) == boot
    assert cloud.qemu_pids()[guest] == process
    assert cloud.pid("agent") == agent
    cloud.ec2.detach_volume(VolumeId=volume)
    cloud.waiter("volume_available", VolumeIds=[volume])
    cloud.ec2.delete_volume(VolumeId=volume)
    cloud.waiter("volume_deleted", VolumeIds=[volume])


def test_launches_retried_while_the_manager_dies(cloud: RealCloud, guest: str) -> None:
    """The same client token, again and again, whatever the answer: one instance each."""
    boot = cloud.boot_id(guest)
    tokens = [f"token-{number}" for number in range(5)]
    answers: dict[str, set[str]] = {token: set() for token in tokens}

    def ask(token: str) -> None:
        for _ in range(4):
            # An answer that was cut off after its head, or ten tries of botocore's that met no manager.
            with contextlib.suppress(ResponseParserError, BotoCoreError):
                answers[token].update(cloud.launch(ClientToken=token))

    with ThreadPoolExecutor(len(tokens)) as pool:
        asking = [pool.submit(ask, token) for token in tokens]
        for _ in range(3):
            time.sleep(0.3)
            kill_manager(cloud)
        for one in asking:
            one.result(timeout=120)
    launched = [id for ids in answers.values() for id in ids]
    assert [len(ids) for ids in answers.values()] == [1] * len(tokens)
    cloud.waiter("instance_running", InstanceIds=launched)
    found = cloud.ec2.describe_instances(Filters=[{"Name": "client-token", "Values": tokens}])["Reservations"]
    assert sorted(item["InstanceId"] for one in found for item in one["Instances"]) == sorted(launched)
    cloud.wait_clean()
    cloud.ec2.terminate_instances(InstanceIds=launched, SkipOsShutdown=True)
    cloud.waiter("instance_terminated", InstanceIds=launched)
    cloud.wait_clean()
    assert cloud.boot_id(guest) == boot


def kill_manager(cloud: RealCloud) -> None:
    """As soon as there is one that answers."""
    pid = cloud.wait("a manager", lambda: ready_manager(cloud))
    os.kill(pid, signal.SIGKILL)
    cloud.wait("its end", lambda: ready_manager(cloud) != pid)


def ready_manager(cloud: RealCloud) -> int:
    [process] = [process for process in cloud.cloud.processes() if process.name == "manager"]
    return process.pid or 0 if process.is_ready else 0


def test_what_was_acknowledged_survives_kill_9(cloud: RealCloud) -> None:
    cloud.stop()
    cloud.start()
    volume = cloud.create_volume(Size=1)
    client = boto3.client(
        "ec2",
        endpoint_url=cloud.config.endpoint,
        region_name=cloud.config.region,
        aws_access_key_id=cloud.config.access_key_id,
        aws_secret_access_key=cloud.config.secret_access_key,
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=10),
    )
    acknowledged: list[str] = []
    stop = threading.Event()

    def tag(writer: int) -> None:
        """Ten tags, over and over, with growing values."""
        for number in range(1000):
            if stop.is_set():
                return
            key = f"{writer}-{number % 10}"
            try:
                client.create_tags(Resources=[volume], Tags=[{"Key": key, "Value": str(number)}])
            except (ClientError, BotoCoreError, ResponseParserError):
                time.sleep(0.05)
                continue
            acknowledged.append(f"{key}={number}")

    with ThreadPoolExecutor(4) as pool:
        writing = [pool.submit(tag, writer) for writer in range(4)]
        for _ in range(4):
            before = len(acknowledged)
            cloud.wait("tags to be written", lambda before=before: len(acknowledged) > before + 20)
            kill_manager(cloud)
        stop.set()
        for one in writing:
            one.result(timeout=60)
    cloud.wait("a manager", lambda: ready_manager(cloud))
    shown = {tag["Key"]: int(tag["Value"]) for tag in cloud.volume(volume)["Tags"]}
    wanted: dict[str, int] = {}
    for line in acknowledged:
        key, _, number = line.partition("=")
        wanted[key] = max(wanted.get(key, 0), int(number))
    assert len(wanted) == 40
    assert {key: number for key, number in wanted.items() if shown.get(key, -1) < number} == {}
    cloud.ec2.delete_volume(VolumeId=volume)


def test_down_and_up_starts_what_ran(cloud: RealCloud, guest: str) -> None:
    """`gureum down` powers the guests off; `gureum up` starts those again that nobody stopped."""
    [stopped] = cloud.launch()
    cloud.wait_ssh(stopped)
    cloud.ec2.stop_instances(InstanceIds=[stopped])
    cloud.waiter("instance_stopped", InstanceIds=[stopped])
    boot = cloud.boot_id(guest)
    cloud.ssh(guest, "echo kept >/root/file && sync")
    cloud.stop()
    cloud.cloud.evacuate()
    assert cloud.leftovers() == []
    cloud.start()
    assert cloud.wait_ssh(guest, "cat /root/file") == "kept"
    assert cloud.boot_id(guest) != boot
    assert cloud.state(guest) == "running"
    assert cloud.state(stopped) == "stopped"
    cloud.wait_clean()


@pytest.fixture
def small_cloud(tiny_image: ImageManifest) -> Iterator[RealCloud]:
    """A cloud whose pool is on a small file system of its own."""
    with opened(tiny_image) as made:
        made.mount_pool(POOL_MIB * MIB)
        made.start()
        yield made


def status(cloud: RealCloud, id: str) -> str:
    [shown] = cloud.ec2.describe_instance_status(InstanceIds=[id])["InstanceStatuses"]
    return str(shown["InstanceStatus"]["Status"])


def test_full_pool_holds_the_writer_only(small_cloud: RealCloud) -> None:
    cloud = small_cloud
    ballast = cloud.cloud.state_dir / "pool/ballast"
    with open(ballast, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, BALLAST_MIB * MIB)
    mapping = {"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 1, "DeleteOnTermination": True}}
    [writer] = cloud.launch(BlockDeviceMappings=[mapping])
    [other] = cloud.launch()
    cloud.waiter("instance_running", InstanceIds=[writer, other])
    boots = {id: cloud.boot_id(id) for id in (writer, other)}
    cloud.ssh(
        writer,
        f"(dd if=/dev/zero of=/dev/vdb bs=1M count={WRITE_MIB} conv=fsync; echo $? >/root/done)"
        " </dev/null >/dev/null 2>&1 &",
    )
    cloud.wait("the writer to be held", lambda: status(cloud, writer) == "impaired")
    assert cloud.state(writer) == "running"
    assert status(cloud, other) == "ok"
    assert cloud.ssh(other, "echo fine >/tmp/file && cat /tmp/file") == "fine"

    volume = cloud.ec2.create_volume(AvailabilityZone=f"{cloud.config.region}a", Size=1)["VolumeId"]
    cloud.wait("the volume to fail", lambda: cloud.volume(volume)["State"] == "error")
    [told] = cloud.ec2.describe_volume_status(VolumeIds=[volume])["VolumeStatuses"]
    assert "full" in told["Events"][0]["Description"]
    snapshot = cloud.ec2.create_snapshot(VolumeId=cloud.root_volume(other))["SnapshotId"]
    cloud.wait("the snapshot to fail", lambda: snapshot_state(cloud, snapshot)[0] == "error")
    assert "full" in snapshot_state(cloud, snapshot)[1]
    [refused] = cloud.launch()
    cloud.wait("the launch to fail", lambda: cloud.state(refused) == "terminated")
    reason = cloud.instance(refused)["StateReason"]
    assert reason["Code"].startswith("Server.")
    assert "full" in reason["Message"]

    ballast.unlink()
    cloud.wait("the writer to go on", lambda: status(cloud, writer) == "ok")
    assert cloud.wait_ssh(writer, "cat /root/done") == "0"
    for id, boot in boots.items():
        assert cloud.boot_id(id) == boot
    cloud.ec2.delete_volume(VolumeId=volume)
    cloud.ec2.delete_snapshot(SnapshotId=snapshot)
    fresh = cloud.create_volume(Size=1)
    cloud.attach(fresh, other)
    cloud.wait_clean()


def snapshot_state(cloud: RealCloud, id: str) -> tuple[str, str]:
    [shown] = cloud.ec2.describe_snapshots(SnapshotIds=[id])["Snapshots"]
    return str(shown["State"]), str(shown.get("StateMessage", ""))
