"""A cloud that shows itself, with one instance in it: what the chapters of the demo have in common.

A chapter is a client like any other: the public API, ssh, and signals to processes.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gureum.cli import api, images
from gureum.cli.cloud import Cloud
from gureum.cli.config import CloudConfig
from gureum.cli.output import note
from gureum.cli.story import DemoError, Story, expect

KEY = "demo-key"
GROUP = "demo-ssh"
TERMINAL_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
MARK = "hello from user-data"
WAIT_SECONDS_MAX = 180.0
LOOK_SECONDS = 0.1

USER_DATA = f"""#!/bin/sh
echo "{MARK} of $(hostname)"
"""


class Chapter:
    """Its steps, in ``tell``."""

    def __init__(self, cloud: Cloud, story: Story) -> None:
        self.cloud = cloud
        self.story = story
        self.instance = ""
        self.address = ""
        self.key_file = cloud.state_dir / "demo-key.pem"
        self._client: Any = None

    def tell(self) -> None:
        raise NotImplementedError

    def configure(self) -> CloudConfig:
        """Makes a new cloud's configuration."""
        return self.cloud.configure(port=free_port())

    def start(self) -> None:
        self.cloud.start(self.cloud.configure(), progress)

    # Steps that all have

    def _start(self) -> None:
        step = self.story.step
        with step("The tiny image is built, or was already") as says:
            self._forget()
            config = self.configure()
            built = images.build(self.cloud.state_dir / "images", "tiny", refresh=False)
            self.image = built["ImageId"]
            says(self.image)
        with step("A cloud starts") as says:
            self.start()
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

    def _new_volume(self, device: str, **source: str) -> str:
        """Of 1 GiB, or of what its source has, attached to the instance."""
        zone = self._describe()["Placement"]["AvailabilityZone"]
        wanted: dict[str, Any] = source or {"Size": 1}
        id = str(self._client.create_volume(AvailabilityZone=zone, **wanted)["VolumeId"])
        self._wait("the volume", lambda: self._volume_state(id) == "available")
        self._attach(id, device)
        return id

    def _grow(self) -> str:
        """Stop the instance, give it a larger type, start it; how much memory it had and has."""
        small = self._memory_kib()
        self._client.stop_instances(InstanceIds=[self.instance])
        self._wait("it to stop", lambda: self._state() == "stopped")
        reason = self._describe()["StateTransitionReason"]
        expect("User initiated" in reason, f"it stopped because of {reason!r}")
        larger = {"Value": "t3.micro"}
        self._client.modify_instance_attribute(InstanceId=self.instance, InstanceType=larger)
        self._client.start_instances(InstanceIds=[self.instance])
        self._wait("it to run", self._runs)
        self.address = self._wait("its address", lambda: self._describe().get("PublicIpAddress"))
        self._wait("ssh", lambda: self._try_ssh("hostname"))
        large = self._memory_kib()
        expect(large > 1.5 * small, f"memory was {small} KiB and is {large} KiB")
        return f"{small // 1024} MiB became {large // 1024} MiB"

    def _memory_kib(self) -> int:
        return int(self._ssh("awk '/MemTotal/ {print $2}' /proc/meminfo"))

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


def progress(text: str) -> None:
    note(f"    {text}")


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
