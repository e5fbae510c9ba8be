"""Manager and agent are killed once at every crash point; what was asked for comes true all the same.

One story, told in stages: before each, the cloud's processes are started anew with some crash points armed,
so that the supervisor's growing delay starts from its smallest. A crash hides the points that come after it
on the same path (what was made is there after the restart), so most stages do a thing twice.

Through all of it a guest runs that nobody touches, with one ssh session to it that must never break.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import gureum
from gureum.san.pool import CHAIN_MAX

from .realcloud import IMAGE_VOLUME, OPTIONS, RealCloud

pytestmark = [pytest.mark.qemu, pytest.mark.root, pytest.mark.timeout(600)]

STAGES: dict[str, tuple[str, ...]] = {
    "first launch": ("manager.step", "pool.image.layer", "network.vpc.built", "network.port.created",
                     "qemu.start.spawned"),
    "launch": ("network.rules.applied", "agent.machine.start", "qemu.start.recorded", "qemu.start.connected",
               "agent.machine.started"),
    "attach": ("manager.stepped", "pool.volume.layer", "pool.volume.recorded", "agent.disk.attach",
               "qemu.attach.opened", "qemu.attach.plugged"),
    "grow": ("network.host.prepared", "agent.volume.created", "agent.disk.attached", "pool.resize.grown",
             "agent.volume.resized"),
    "snapshot": ("manager.spec", "pool.snapshot.layer", "pool.snapshot.intent", "qemu.switch.opened",
                 "qemu.switch.done", "pool.snapshot.switched"),
    "more snapshots": ("network.port.routed", "network.resolver.started", "pool.snapshot.recorded",
                       "pool.snapshot.settled", "agent.snapshot.created"),
    "merge": ("pool.compact.layer", "pool.compact.flattened", "pool.compact.recorded"),
    "detach": ("network.public.routed", "agent.network.applied", "agent.disk.detached",
               "qemu.detach.unplugged"),
    "interfaces": ("agent.nic.attach", "qemu.nic.opened", "qemu.nic.plugged", "agent.nic.attached",
                   "agent.nic.detached", "qemu.nic.unplugged"),
    "reboot": ("agent.spec.taken", "qemu.reset.recorded", "qemu.reset.done"),
    "stop": ("qemu.end.recorded", "qemu.end.ended", "agent.machine.off"),
    "delete snapshots": ("pool.snapshot.dropped", "agent.snapshot.deleted"),
    "terminate": ("qemu.remove.ended", "agent.machine.removed", "pool.delete.dropped",
                  "agent.volume.deleted"),
    "last": ("network.vpc.removed",),
}  # fmt: skip

AT_START = ("manager.spec", "agent.spec.taken", "agent.network.applied", "network.host.prepared",
            "network.port.routed", "network.resolver.started", "network.public.routed")  # fmt: skip
"""Those that every start of a cloud with a guest comes by: over before the stage does anything."""

HOSTS = "needs more VPCs than the story has; tests/integration/network/test_network_hosts_life.py"
QEMU_MIGRATION = "instances migrate between hosts; tests/system/hypervisors/test_migration.py"
MIRROR = "disks move between pools; tests/system/hypervisors/test_mirror.py"
MIGRATION = "instances migrate between hosts; tests/sim/test_migrations.py"
MOVE = "volumes move between pools; tests/system/san/test_moves.py"
FREEZE = "the story's guest has no agent; tests/system/hypervisors/test_freeze.py"
RESIZE = "instances get another type while they run; tests/sim/test_resizes.py"
QEMU_RESIZE = "machines grow while they run; tests/system/hypervisors/test_crash.py"
EMPTYING = "hosts have no switches there; tests/sim/scenarios/empty-manager-dies"
ELSEWHERE = {
    "agent.machine.resize": RESIZE,
    "agent.machine.resized": RESIZE,
    "qemu.resize.asked": QEMU_RESIZE,
    "qemu.resize.limited": QEMU_RESIZE,
    "agent.copy.begun": "of copies that are encrypted; tests/integration/test_encrypted_copy.py",
    "agent.copy.done": "of copies that are encrypted; tests/integration/test_encrypted_copy.py",
    "agent.migration.arrived": MIGRATION,
    "agent.migration.cancelled": MIGRATION,
    "agent.migration.leave": MIGRATION,
    "agent.migration.left": MIGRATION,
    "agent.migration.stayed": MIGRATION,
    "agent.move.begun": MOVE,
    "agent.move.cancelled": MOVE,
    "agent.move.complete": MOVE,
    "agent.move.copied": MOVE,
    "agent.move.left": MOVE,
    "agent.move.mirrored": MOVE,
    "agent.move.switched": MOVE,
    "agent.volume.let_go": "of shared pools only; tests/sim/test_pools.py",
    "agent.volume.released": "of shared pools only; tests/sim/test_shared_pool.py",
    "agent.volume.sealed": "of encrypted volumes only; tests/unit/agent/test_blocks.py",
    "agent.volume.taken": MIGRATION,
    "growth.begin": "hosts have no switches there; tests/sim/scenarios/park-resize-wakes",
    "manager.switch": MIGRATION,
    "manager.switched": MIGRATION,
    "network.nat.built": HOSTS,
    "network.peering.joined": HOSTS,
    "network.peering.parted": HOSTS,
    "qemu.copies.begun": QEMU_MIGRATION,
    "qemu.copies.ended": QEMU_MIGRATION,
    "qemu.freeze.done": FREEZE,
    "qemu.freeze.noted": FREEZE,
    "qemu.migrate.begin": QEMU_MIGRATION,
    "qemu.migrate.begun": QEMU_MIGRATION,
    "qemu.migrate.went_on": QEMU_MIGRATION,
    "qemu.mirror.cancelled": MIRROR,
    "qemu.mirror.finish": MIRROR,
    "qemu.mirror.opened": MIRROR,
    "qemu.mirror.started": MIRROR,
    "qemu.mirror.switched": MIRROR,
    "power.empty": EMPTYING,
    "power.emptied": EMPTYING,
    "power.leave": EMPTYING,
    "power.switch": "hosts have no switches there; tests/sim/scenarios/park-manager-dies",
    "power.switched": "hosts have no switches there; tests/sim/scenarios/park-manager-dies",
    "pool.image.dropped": "images are never removed by the API; tests/integration/test_local_pool.py",
}
"""Crash points that the story does not reach, and which test does."""


def crash_points() -> set[str]:
    """All names in the source, but those of the fakes."""
    found: set[str] = set()
    for path in Path(gureum.__file__).parent.rglob("*.py"):
        if not path.name.startswith("fake"):
            found.update(re.findall(r'crashpoint\(\s*"([^"]+)"', path.read_text()))
    return found


def test_every_crash_point_has_its_place() -> None:
    staged = [name for names in STAGES.values() for name in names]
    assert len(staged) == len(set(staged))
    assert len(staged) >= 20
    assert set(staged).isdisjoint(ELSEWHERE)
    assert crash_points() == set(staged) | set(ELSEWHERE)


class Session:
    """One ssh session to a guest, which repeats what it is told."""

    def __init__(self, cloud: RealCloud, address: str) -> None:
        flags = [word for name, value in OPTIONS.items() for word in ("-o", f"{name}={value}")]
        argv = ["ssh", "-F", "none", *flags, "-i", str(cloud.key_file), f"root@{address}", "cat"]
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def echo(self, text: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(text + "\n")
        return self._process.stdout.readline().strip()

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.terminate()
        self._process.wait()


class Story:
    """What the stages hand on to each other."""

    def __init__(self, cloud: RealCloud) -> None:
        self.cloud = cloud
        self.broken = ""
        self.witness = ""
        self.boot = ""
        self.session: Session | None = None
        self.a = self.b = ""
        self.v1 = self.v2 = ""

    def arm(self, stage: str) -> None:
        self.cloud.stop()
        assert self.cloud.check_pool() == []
        self.cloud.start(STAGES[stage], self.cloud.directory / "hit")

        early = [name for name in STAGES[stage] if name in AT_START]
        self.cloud.wait(f"{early}", lambda: set(early).isdisjoint(self.missed(stage)))

    def missed(self, stage: str) -> list[str]:
        return [name for name in STAGES[stage] if not (self.cloud.directory / f"hit.{name}").exists()]

    def settle(self, stage: str) -> None:
        """Every armed point was hit, the cloud works, nothing leaked, the witness did not notice."""
        cloud = self.cloud
        cloud.wait(f"{self.missed(stage)}", lambda: not self.missed(stage))
        cloud.wait("all processes", lambda: all(process.is_ready for process in cloud.cloud.processes()))
        cloud.wait_clean()
        if self.session is not None:
            assert self.session.echo(stage) == stage
            assert cloud.ssh(self.witness, "cat /proc/sys/kernel/random/boot_id") == self.boot

    def tell(self, stage: str, work: Callable[[], None]) -> None:
        if self.broken:
            pytest.skip(f"the stage before failed: {self.broken}")
        self.broken = stage
        self.arm(stage)
        work()
        self.settle(stage)
        self.broken = ""

    def checksum(self, instance: str, volume: str) -> str:
        """Of the volume's first 4 MiB, which hold what was written."""
        device = self.cloud.device(instance, volume)
        return self.cloud.ssh(instance, f"head -c 4194304 {device} | md5sum").split()[0]


@pytest.fixture(scope="module")
def story(cloud: RealCloud) -> Iterator[Story]:
    made = Story(cloud)
    yield made
    if made.session is not None:
        made.session.close()


def test_first_launch(story: Story, cloud: RealCloud) -> None:
    def work() -> None:
        [story.witness] = cloud.launch()
        cloud.waiter("instance_running", InstanceIds=[story.witness])
        story.boot = cloud.boot_id(story.witness)

    story.tell("first launch", work)
    story.session = Session(cloud, cloud.instance(story.witness)["PublicIpAddress"])


def test_launch(story: Story, cloud: RealCloud) -> None:
    def work() -> None:
        disk = {"DeviceName": "/dev/sdb", "Ebs": {"VolumeSize": 1, "DeleteOnTermination": True}}
        for name in ("a", "b"):
            [id] = cloud.launch(BlockDeviceMappings=[disk])
            cloud.waiter("instance_running", InstanceIds=[id])
            setattr(story, name, id)
        for id in (story.a, story.b):
            assert cloud.wait_ssh(id, "imds latest/meta-data/instance-id") == id

    story.tell("launch", work)


def test_attach(story: Story, cloud: RealCloud) -> None:
    def work() -> None:
        story.v1 = cloud.create_volume(Size=1)
        cloud.attach(story.v1, story.a)
        device = cloud.device(story.a, story.v1)
        cloud.ssh(story.a, f"dd if=/dev/urandom of={device} bs=1M count=4 conv=fsync 2>/dev/null")

    story.tell("attach", work)


def test_grow(story: Story, cloud: RealCloud) -> None:
    def work() -> None:
        before = story.checksum(story.a, story.v1)
        story.v2 = cloud.create_volume(Size=1)
        cloud.attach(story.v2, story.a, "/dev/sdg")
        assert cloud.device(story.a, story.v2)
        cloud.ec2.modify_volume(VolumeId=story.v1, Size=2)
        cloud.wait("the modification", lambda: modification(cloud, story.v1) == "completed")
        name = cloud.device(story.a, story.v1).removeprefix("/dev/")
        cloud.wait_ssh(story.a, f"grep -x 4194304 /sys/block/{name}/size")
        assert story.checksum(story.a, story.v1) == before

    story.tell("grow", work)


def test_snapshot(story: Story, cloud: RealCloud) -> None:
    def work() -> None:
        before = story.checksum(story.a, story.v1)
        snapshot = cloud.ec2.create_snapshot(VolumeId=story.v1)["SnapshotId"]
        cloud.wait_snapshot(snapshot)
        device = cloud.device(story.a, story.v1)
        cloud.ssh(story.a, f"dd if=/dev/zero of={device} bs=1M count=4 conv=fsync 2>/dev/null")
        copy = cloud.create_volume(SnapshotId=snapshot)
        cloud.attach(copy, story.a, "/dev/sdh")
        assert story.checksum(story.a, copy) == before
        cloud.ec2.detach_volume(VolumeId=copy)
        cloud.waiter("volume_available", VolumeIds=[copy])
        cloud.ec2.delete_volume(VolumeId=copy)
        cloud.wait("the copy to go", lambda: cloud.gone(copy))

    story.tell("snapshot", work)


def test_more_snapshots(story: Story, cloud: RealCloud) -> None:
    def work() -> None:
        for volume in (story.v1, story.v2, cloud.root_volume(story.a)):
            cloud.wait_snapshot(cloud.ec2.create_snapshot(VolumeId=volume)["SnapshotId"])
        cloud.ssh(story.a, "echo goes on >/root/file && sync")

    story.tell("more snapshots", work)


def test_merge(story: Story, cloud: RealCloud) -> None:
    """A volume of many layers, once no machine has it."""

    def work() -> None:
        device = cloud.device(story.a, story.v2)
        cloud.ssh(story.a, f"dd if=/dev/urandom of={device} bs=1M count=4 conv=fsync 2>/dev/null")
        before = story.checksum(story.a, story.v2)
        taken = [cloud.ec2.create_snapshot(VolumeId=story.v2)["SnapshotId"] for _ in range(CHAIN_MAX + 1)]
        cloud.waiter("snapshot_completed", SnapshotIds=taken)
        cloud.ec2.detach_volume(VolumeId=story.v2)
        cloud.waiter("volume_available", VolumeIds=[story.v2])
        cloud.attach(story.v2, story.a, "/dev/sdg")
        assert story.checksum(story.a, story.v2) == before
        record = json.loads((cloud.cloud.state_dir / f"pool/records/{story.v2}.json").read_bytes())
        assert len(record["chain"]) <= CHAIN_MAX

    story.tell("merge", work)


def test_detach(story: Story, cloud: RealCloud) -> None:
    def work() -> None:
        for volume in (story.v1, story.v2):
            cloud.ec2.detach_volume(VolumeId=volume)
            cloud.waiter("volume_available", VolumeIds=[volume])
        cloud.wait(
            "both disks to go", lambda: cloud.ssh(story.a, "ls /dev/vd*").split() == ["/dev/vda", "/dev/vdb"]
        )
        for volume in (story.v1, story.v2):
            cloud.ec2.delete_volume(VolumeId=volume)

    story.tell("detach", work)


def test_interfaces(story: Story, cloud: RealCloud) -> None:
    def work() -> None:
        subnet = cloud.instance(story.a)["SubnetId"]
        made = cloud.ec2.create_network_interface(SubnetId=subnet)["NetworkInterface"]
        id = made["NetworkInterfaceId"]
        for _ in range(2):
            attached = cloud.ec2.attach_network_interface(
                NetworkInterfaceId=id, InstanceId=story.a, DeviceIndex=1
            )
            cloud.wait("the guest to get it", lambda: made["MacAddress"] in cards(cloud, story.a))
            cloud.wait("that to be known", lambda: attachment(cloud, id) == "attached")
            cloud.ec2.detach_network_interface(AttachmentId=attached["AttachmentId"])
            cloud.waiter("network_interface_available", NetworkInterfaceIds=[id])
            assert made["MacAddress"] not in cards(cloud, story.a)
        cloud.ec2.delete_network_interface(NetworkInterfaceId=id)

    story.tell("interfaces", work)


def test_reboot(story: Story, cloud: RealCloud) -> None:
    def work() -> None:
        boot = cloud.boot_id(story.a)
        cloud.ec2.reboot_instances(InstanceIds=[story.a])
        cloud.wait("every crash point", lambda: not story.missed("reboot"))
        cloud.wait(
            "another boot",
            lambda: cloud.try_ssh(story.a, "cat /proc/sys/kernel/random/boot_id") not in ("", boot),
        )
        assert cloud.ssh(story.a, "cat /root/file") == "goes on"
        assert cloud.state(story.a) == "running"

    story.tell("reboot", work)


def test_stop_and_start(story: Story, cloud: RealCloud) -> None:
    def work() -> None:
        for id in (story.a, story.b):
            cloud.ec2.stop_instances(InstanceIds=[id])
            cloud.waiter("instance_stopped", InstanceIds=[id])
            assert cloud.instance(id)["StateReason"]["Code"] == "Client.UserInitiatedShutdown"
        cloud.ec2.modify_instance_attribute(InstanceId=story.a, InstanceType={"Value": "t3.micro"})
        cloud.ec2.start_instances(InstanceIds=[story.a])
        cloud.waiter("instance_running", InstanceIds=[story.a])
        assert cloud.wait_ssh(story.a, "cat /root/file") == "goes on"

    story.tell("stop", work)


def test_delete_snapshots(story: Story, cloud: RealCloud) -> None:
    def work() -> None:
        for item in own_snapshots(cloud):
            cloud.ec2.delete_snapshot(SnapshotId=item)
        cloud.wait("snapshots to go", lambda: own_snapshots(cloud) == [])

    story.tell("delete snapshots", work)


def test_terminate(story: Story, cloud: RealCloud) -> None:
    def work() -> None:
        cloud.ec2.terminate_instances(InstanceIds=[story.a, story.b])
        cloud.waiter("instance_terminated", InstanceIds=[story.a, story.b])
        root = cloud.root_volume(story.witness)
        cloud.wait(
            "their volumes to go",
            lambda: [v["VolumeId"] for v in cloud.ec2.describe_volumes()["Volumes"]] == [root],
        )

    story.tell("terminate", work)


def test_last_guest(story: Story, cloud: RealCloud) -> None:
    def work() -> None:
        assert story.session is not None
        story.session.close()
        story.session = None
        cloud.ec2.terminate_instances(InstanceIds=[story.witness])
        cloud.waiter("instance_terminated", InstanceIds=[story.witness])
        cloud.wait(
            "the network to go", lambda: not list(Path("/run/netns").glob(f"gm{cloud.config.index}-*"))
        )

    story.tell("last", work)
    assert [name for stage in STAGES for name in story.missed(stage)] == []
    cloud.stop()
    assert cloud.check_pool() == []
    cloud.start()


def modification(cloud: RealCloud, volume: str) -> str:
    found = cloud.ec2.describe_volumes_modifications(VolumeIds=[volume])["VolumesModifications"]
    return str(found[0]["ModificationState"])


def cards(cloud: RealCloud, instance: str) -> list[str]:
    return cloud.ssh(instance, "cat /sys/class/net/eth*/address").split()


def attachment(cloud: RealCloud, interface: str) -> str:
    [found] = cloud.ec2.describe_network_interfaces(NetworkInterfaceIds=[interface])["NetworkInterfaces"]
    return str(found["Attachment"]["Status"])


def own_snapshots(cloud: RealCloud) -> list[str]:
    """Those of volumes, not of images."""
    found = cloud.ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]
    return [item["SnapshotId"] for item in found if item["VolumeId"] != IMAGE_VOLUME]
