"""``gureum demo``: the whole story on a cloud of its own, every step's result checked.

It is a client like any other: the public API, ssh, and signals to processes. It knows nothing of the inside.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from gureum.cli import api, images
from gureum.cli.cloud import Cloud
from gureum.cli.config import default_base
from gureum.cli.output import CliError, note, show_json, table
from gureum.cli.processes import read_pid_file

KEY = "demo-key"
GROUP = "demo-ssh"
TERMINAL_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
MARK = "hello from user-data"
FILE_MIB = 8
WAIT_SECONDS_MAX = 180.0
LOOK_SECONDS = 0.1

USER_DATA = f"""#!/bin/sh
echo "{MARK} of $(hostname)"
"""


class DemoError(CliError):
    """A step's result was not what it should be."""


class Step(msgspec.Struct):
    """One line of the final table. ``result`` says what was checked."""

    title: str
    seconds: float = 0.0
    result: str = ""
    ok: bool = False


class Story:
    """The steps, each with its time and its result."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    @contextmanager
    def step(self, title: str) -> Iterator[Callable[[str], None]]:
        """A step: call what it yields with what was checked."""
        step = Step(title)
        self.steps.append(step)
        note(f"{title} ...")
        began = time.monotonic()

        def says(result: str) -> None:
            step.result = result

        try:
            yield says
            step.ok = bool(step.result)
        except Exception as error:
            step.result = str(error)
            raise
        finally:
            step.seconds = time.monotonic() - began
            note(f"    {'ok' if step.ok else 'FAILED'}, {step.seconds:.1f} s: {step.result}")

    def show(self, as_json: bool) -> None:
        if as_json:
            show_json([msgspec.to_builtins(step) for step in self.steps])
            return
        rows = [
            (number, step.title, f"{step.seconds:.1f} s", "ok" if step.ok else "FAILED", step.result)
            for number, step in enumerate(self.steps, 1)
        ]
        print(table(("#", "STEP", "TIME", "", "CHECKED"), rows))


def run(state_dir: Path | None, *, keep: bool, as_json: bool) -> int:
    """Tell the story. Returns 0 if every step's result was right."""
    cloud = Cloud(state_dir or default_base() / "demo")
    if cloud.is_running() or cloud.guests():
        raise CliError(
            f"a demo's cloud is still running in {cloud.state_dir}",
            f"gureum down --state-dir {cloud.state_dir}",
        )
    story = Story()
    demo = Demo(cloud, story)
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


class Demo:
    def __init__(self, cloud: Cloud, story: Story) -> None:
        self.cloud = cloud
        self.story = story
        self.instance = ""
        self.address = ""
        self.volume = ""
        self.snapshot = ""
        self.copy = ""
        self.digest = ""
        self.key_file = cloud.state_dir / "demo-key.pem"
        self._client: Any = None

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

    # The steps

    def _start(self) -> None:
        step = self.story.step
        with step("The tiny image is built, or was already") as says:
            self._forget()
            self.cloud.configure(port=free_port())
            built = images.build(self.cloud.state_dir / "images", "tiny", refresh=False)
            self.image = built["ImageId"]
            says(self.image)
        with step("A cloud starts") as says:
            config = self.cloud.configure()
            self.cloud.start(config, lambda text: note(f"    {text}"))
            self._client = api.client(self.cloud, "ec2")
            account = api.call(self.cloud, "sts", "get_caller_identity")["Account"]
            expect(account == config.account_id, f"the API answers for account {account}")
            says(f"{config.endpoint} answers for account {account}")

    def _keys(self) -> None:
        with self.story.step("A key pair and a security group that lets ssh in") as says:
            pair = self._client.create_key_pair(KeyName=KEY, KeyType="ed25519")
            self.key_file.unlink(missing_ok=True)
            with open(os.open(self.key_file, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
                file.write(pair["KeyMaterial"])
            group = self._client.create_security_group(GroupName=GROUP, Description="ssh for the demo")
            self.group = group["GroupId"]
            self._client.authorize_security_group_ingress(
                GroupId=self.group, IpProtocol="tcp", FromPort=22, ToPort=22, CidrIp="0.0.0.0/0"
            )
            found = self._client.describe_security_groups(GroupIds=[self.group])["SecurityGroups"][0]
            expect(found["IpPermissions"][0]["FromPort"] == 22, "the rule is not there")
            says(f"{pair['KeyPairId']}, {self.group}")

    def _launch(self) -> None:
        with self.story.step("RunInstances: a real machine boots and runs its user-data") as says:
            answer = self._client.run_instances(
                ImageId=self.image,
                InstanceType="t3.nano",
                MinCount=1,
                MaxCount=1,
                KeyName=KEY,
                SecurityGroupIds=[self.group],
                UserData=USER_DATA,
                TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "demo"}]}],
            )
            self.instance = answer["Instances"][0]["InstanceId"]
            console = self._wait("its user-data to run", self._booted)
            for line in TERMINAL_ESCAPE.sub("", console).splitlines()[-12:]:
                note(f"    | {line}")
            self._wait("it to be running", self._runs)
            self.address = self._describe()["PublicIpAddress"]
            says(f"{self.instance} at {self.address}; its console shows {MARK!r}")

    def _booted(self) -> str | None:
        self._runs()
        output = self._client.get_console_output(InstanceId=self.instance, Latest=True).get("Output", "")
        text = decode_console(output)
        return text if MARK in text else None

    def _login(self) -> None:
        with self.story.step("ssh logs in with the key pair") as says:
            hostname = self._wait("ssh to answer", lambda: self._try_ssh("hostname"))
            private = self._describe()["PrivateIpAddress"]
            expect(private.replace(".", "-") in hostname, f"the guest calls itself {hostname!r}")
            says(f"{hostname}, {self._ssh('uname -sr')}")

    def _second_volume(self) -> None:
        with self.story.step("A second volume is attached to the running machine, a file written") as says:
            zone = self._describe()["Placement"]["AvailabilityZone"]
            self.volume = self._client.create_volume(AvailabilityZone=zone, Size=1)["VolumeId"]
            self._wait("the volume", lambda: self._volume_state(self.volume) == "available")
            self._attach(self.volume, "/dev/sdf")
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
            self.cloud.start(self.cloud.configure(), lambda text: note(f"    {text}"))
            self._wait("the API to show it", self._runs)
            expect(self._guest_identity() == before, "the guest was restarted")
            expect(self._file_digest() == self.digest, "the file changed")
            self._wait("its console", self._booted)
            says("same boot id, same hypervisor process, same file")

    def _resize(self) -> None:
        with self.story.step("Stop, change to a larger type, start: same disk, more memory") as says:
            small = int(self._ssh("awk '/MemTotal/ {print $2}' /proc/meminfo"))
            self._client.stop_instances(InstanceIds=[self.instance])
            self._wait("it to stop", lambda: self._state() == "stopped")
            reason = self._describe()["StateTransitionReason"]
            expect("User initiated" in reason, f"it stopped because of {reason!r}")
            self._client.modify_instance_attribute(
                InstanceId=self.instance, InstanceType={"Value": "t3.micro"}
            )
            self._client.start_instances(InstanceIds=[self.instance])
            self._wait("it to run", self._runs)
            self.address = self._wait("its address", lambda: self._describe().get("PublicIpAddress"))
            large = int(self._wait("ssh", lambda: self._try_ssh("awk '/MemTotal/ {print $2}' /proc/meminfo")))
            expect(large > 1.5 * small, f"memory was {small} KiB and is {large} KiB")
            self._ssh(f"mkdir -p /data && mount {self._device(self.volume)} /data")
            expect(self._file_digest() == self.digest, "the file changed")
            says(f"{small // 1024} MiB became {large // 1024} MiB; the file is there")

    def _snapshot(self) -> None:
        with self.story.step("A snapshot of the mounted volume, a new volume from it") as says:
            self._ssh("sync")
            began = time.monotonic()
            self.snapshot = self._client.create_snapshot(VolumeId=self.volume)["SnapshotId"]
            self._wait("the snapshot", lambda: self._snapshot_state() == "completed")
            seconds = time.monotonic() - began
            self._ssh("echo changed > /data/file && sync")
            zone = self._describe()["Placement"]["AvailabilityZone"]
            self.copy = self._client.create_volume(AvailabilityZone=zone, SnapshotId=self.snapshot)[
                "VolumeId"
            ]
            self._wait("the copy", lambda: self._volume_state(self.copy) == "available")
            self._attach(self.copy, "/dev/sdg")
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

    def clean_up(self) -> None:
        """Take the cloud down and remove its state."""
        self.cloud.stop_processes()
        self.cloud.evacuate()
        left = self.cloud.guests()
        expect(not left and not self.cloud.is_running(), f"still running: {left}")
        index = self.cloud.configure().index
        namespaces = Path("/run/netns").glob(f"gm{index}-*")
        expect(not list(namespaces), "a network namespace is left")
        self._forget()

    def _forget(self) -> None:
        """Remove the state of a demo's cloud."""
        if self.cloud.state_dir.exists():
            shutil.rmtree(self.cloud.state_dir)

    # What they need

    def _describe(self) -> dict[str, Any]:
        answer = self._client.describe_instances(InstanceIds=[self.instance])
        found: dict[str, Any] = answer["Reservations"][0]["Instances"][0]
        return found

    def _state(self) -> str:
        return str(self._describe()["State"]["Name"])

    def _runs(self) -> bool:
        found = self._describe()
        state = found["State"]["Name"]
        expect(state not in ("terminated", "shutting-down"), f"it is {state}: {found.get('StateReason')}")
        return bool(state == "running")

    def _volume_state(self, id: str) -> str:
        found = self._client.describe_volumes(Filters=[{"Name": "volume-id", "Values": [id]}])["Volumes"]
        return str(found[0]["State"]) if found else "gone"

    def _volume_is(self, id: str, state: str) -> bool:
        return self._volume_state(id) == state

    def _snapshot_state(self) -> str:
        return str(self._client.describe_snapshots(SnapshotIds=[self.snapshot])["Snapshots"][0]["State"])

    def _attach(self, volume: str, device: str) -> None:
        self._client.attach_volume(VolumeId=volume, InstanceId=self.instance, Device=device)

        def attached() -> bool:
            found = self._client.describe_volumes(VolumeIds=[volume])["Volumes"][0]
            return bool(found["Attachments"]) and found["Attachments"][0]["State"] == "attached"

        self._wait("the attachment", attached)

    def _device(self, volume: str) -> str:
        """The guest's name for a volume, found by its serial number (20 characters, as virtio has them)."""
        serial = volume.replace("-", "")[:20]
        find = f'for d in /sys/block/vd*; do [ "$(cat $d/serial)" = {serial} ] && echo /dev/${{d##*/}}; done'
        return str(self._wait("the guest to see the disk", lambda: self._try_ssh(find)))

    def _file_digest(self) -> str:
        return self._ssh("sha256sum /data/file").split()[0]

    def _guest_identity(self) -> tuple[str, list[str]]:
        """Differs if the guest was restarted: its boot id, and its hypervisor's process."""
        boot = self._ssh("cat /proc/sys/kernel/random/boot_id")
        return boot, self._hypervisor_pids()

    def _hypervisor_pids(self) -> list[str]:
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = path.read_bytes()
            except OSError:
                continue
            if b"qemu-system" in line.partition(b"\0")[0] and self.instance.encode() in line:
                found.append(path.parent.name)
        return found

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

    def _ssh_command(self, command: str) -> list[str]:
        options = (
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "LogLevel=ERROR",
            "ConnectTimeout=5",
            "BatchMode=yes",
            "IdentitiesOnly=yes",
        )
        flags = [flag for option in options for flag in ("-o", option)]
        return ["ssh", *flags, "-i", str(self.key_file), f"root@{self.address}", command]

    def _ssh(self, command: str) -> str:
        done = subprocess.run(
            self._ssh_command(command), capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode != 0:
            raise DemoError(f"in the guest, {command!r} failed: {done.stderr.strip()}")
        return done.stdout.strip()

    def _try_ssh(self, command: str) -> str | None:
        try:
            return self._ssh(command) or None
        except (DemoError, subprocess.TimeoutExpired):
            return None

    def _wait(self, what: str, look: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while time.monotonic() < deadline:
            if found := look():
                return found
            time.sleep(LOOK_SECONDS)
        raise DemoError(f"waited {WAIT_SECONDS_MAX:.0f} s in vain for {what}")


def expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise DemoError(otherwise)


def decode_console(output: str) -> str:
    """botocore hands the console's text over decoded, older ones as base64."""
    try:
        return base64.b64decode(output, validate=True).decode(errors="replace")
    except ValueError:
        return output


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
