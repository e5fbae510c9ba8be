"""``gureum demo``: the whole story on a cloud of its own, every step's result checked."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from pathlib import Path

from gureum.cli.chapter import KEY, Chapter, progress
from gureum.cli.cloud import Cloud
from gureum.cli.config import default_base
from gureum.cli.demo_fleet import Fleet
from gureum.cli.output import USAGE, CliError, note
from gureum.cli.processes import read_pid_file
from gureum.cli.story import DemoError, Story, expect

FILE_MIB = 8


def run(state_dir: Path | None, hosts: int | None, san: str | None, *, keep: bool, as_json: bool) -> int:
    """Tell the story of one machine, or of so many hosts and their storage cluster.

    Returns 0 if every step's result was right. Raises CliError.
    """
    if (hosts, san) != (None, None):
        check_fleet(hosts, san)
    cloud = Cloud(state_dir or default_base() / "demo")
    if cloud.is_running() or cloud.guests():
        raise CliError(
            f"a demo's cloud is still running in {cloud.state_dir}",
            f"gureum down --state-dir {cloud.state_dir}",
        )
    story = Story()
    demo = OneMachine(cloud, story) if hosts is None else Fleet(cloud, story, hosts)
    began = time.monotonic()
    try:
        demo.tell()
    except Exception as error:
        problem = error if isinstance(error, CliError) else DemoError(f"{type(error).__name__}: {error}")
        note(f"\nThe demo stopped: {problem.message}")
        note(f"  next: gureum logs --state-dir {cloud.state_dir}")
        story.show(as_json)
        if not keep:
            cloud.stop_processes()
            cloud.evacuate()
        return 1
    if not keep:
        with story.step("The cloud is taken down, nothing is left") as says:
            demo.clean_up()
            says("no process, guest or network namespace is left")
    story.show(as_json)
    note(f"{len(story.steps)} steps, {time.monotonic() - began:.0f} s, all checked.")
    if keep:
        note(f'The cloud goes on: eval "$(gureum env --state-dir {cloud.state_dir})"')
    return 0


def check_fleet(hosts: int | None, san: str | None) -> None:
    if hosts is None or hosts < 2 or san != "ceph":
        raise CliError(
            "a host can only be lost where there are others, and its disks in a storage cluster",
            "gureum demo --hosts 3 --san ceph",
            exit_code=USAGE,
        )


class OneMachine(Chapter):
    """A guest, its disks, and processes that die."""

    def __init__(self, cloud: Cloud, story: Story) -> None:
        super().__init__(cloud, story)
        self.volume = ""
        self.snapshot = ""
        self.copy = ""
        self.digest = ""

    def tell(self) -> None:
        self._start()
        self._keys()
        self._launch()
        self._login()
        self._second_volume()
        self._kill_everything()
        self._resize()
        self._snapshot()
        self._terminate()

    def _second_volume(self) -> None:
        with self.story.step("A second volume is attached to the running machine, a file written") as says:
            self.volume = self._new_volume("/dev/sdf")
            device = self._device(self.volume)
            self._ssh(f"mkfs.ext4 -q {device} && mkdir -p /data && mount {device} /data")
            self._ssh(f"dd if=/dev/urandom of=/data/file bs=1M count={FILE_MIB} 2>/dev/null && sync")
            self.digest = self._ssh("sha256sum /data/file").split()[0]
            says(f"{self.volume} is {device}; {FILE_MIB} MiB, sha256 {self.digest[:12]}...")

    def _kill_everything(self) -> None:
        with self.story.step("kill -9 of every gureum process: the guest does not notice") as says:
            before = self._guest_identity()
            dead = self._kill_processes()
            expect(self._guest_identity() == before, "the guest is not the same any more")
            says(f"{dead} processes killed; the guest answers ssh all the same")
        with self.story.step("The cloud starts again and takes the guest over") as says:
            self.cloud.start(self.cloud.configure(), progress)
            self._wait("the API to show it", self._runs)
            expect(self._guest_identity() == before, "the guest was restarted")
            expect(self._file_digest() == self.digest, "the file changed")
            self._wait("its console", self._booted)
            says("same boot id, same hypervisor process, same file")

    def _resize(self) -> None:
        with self.story.step("Stop, change to a larger type, start: same disk, more memory") as says:
            grown = self._grow()
            self._ssh(f"mkdir -p /data && mount {self._device(self.volume)} /data")
            expect(self._file_digest() == self.digest, "the file changed")
            says(f"{grown}; the file is there")

    def _snapshot(self) -> None:
        with self.story.step("A snapshot of the mounted volume, a new volume from it") as says:
            self._ssh("sync")
            began = time.monotonic()
            self.snapshot = self._client.create_snapshot(VolumeId=self.volume)["SnapshotId"]
            self._wait("the snapshot", lambda: self._snapshot_state() == "completed")
            seconds = time.monotonic() - began
            self._ssh("echo changed > /data/file && sync")
            self.copy = self._new_volume("/dev/sdg", SnapshotId=self.snapshot)
            self._ssh(f"mkdir -p /copy && mount {self._device(self.copy)} /copy")
            copied = self._ssh("sha256sum /copy/file").split()[0]
            expect(copied == self.digest, "the copy is not what was snapshotted")
            expect(self._file_digest() != self.digest, "the volume should have changed")
            says(f"{self.snapshot} in {seconds:.1f} s; {self.copy} holds the old file")

    def _terminate(self) -> None:
        with self.story.step("Terminate, and delete volumes, snapshot, group and key") as says:
            root = self._describe()["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]
            self._client.terminate_instances(InstanceIds=[self.instance])
            self._wait("it to terminate", lambda: self._state() == "terminated")
            for volume in (self.volume, self.copy):
                self._wait("the volume", partial(self._volume_is, volume, "available"))
                self._client.delete_volume(VolumeId=volume)
            self._client.delete_snapshot(SnapshotId=self.snapshot)
            self._client.delete_security_group(GroupId=self.group)
            self._client.delete_key_pair(KeyName=KEY)
            for volume in (root, self.volume, self.copy):
                self._wait("volumes to go", partial(self._volume_is, volume, "gone"))
            says("the root volume went with the instance, the others on request")

    def _snapshot_state(self) -> str:
        return str(self._client.describe_snapshots(SnapshotIds=[self.snapshot])["Snapshots"][0]["State"])

    def _kill_processes(self) -> int:
        killed = []
        for name in ("supervisor", "manager", "agent"):
            identity = read_pid_file(self.cloud.run_dir / f"{name}.pid")
            if identity is not None:
                os.kill(identity.pid, signal.SIGKILL)
                killed.append(identity.pid)
        self._wait("them to be gone", lambda: not self.cloud.is_running())
        expect(len(killed) == 3, f"only {len(killed)} processes ran")
        return len(killed)
