"""Calls of the API, and what has to be true for ever after each that was answered with success."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from gureum.cli import api
from gureum.cli.cloud import Cloud

PAUSE_SECONDS = (0.5, 5.0)
AGAIN_SECONDS = 1.0
ANSWER_SECONDS = 60.0
"""So long a call that was not answered is repeated: nothing is away for longer than the manager's restart."""
READ_SECONDS = 30.0
EXTRAS_MAX = 2
VOLUMES_MAX = 3
SNAPSHOTS_MAX = 3
DRAIN_SECONDS = (5.0, 30.0)
SMALL, LARGE = "t3.nano", "t3.micro"
HONEST = (
    "InsufficientInstanceCapacity",
    "InsufficientCapacityException",
    "Unavailable",
    "ServiceUnavailable",
)
"""Refusals that EC2 gives with a status of 500 and more."""
DONE_ALREADY = {
    "DeleteVolume": ("InvalidVolume.NotFound",),
    "DeleteSnapshot": ("InvalidSnapshot.NotFound",),
    "AttachVolume": ("VolumeInUse",),
    "DetachVolume": ("IncorrectState",),
    "MigrateInstance": ("InvalidStateException",),
}
"""What is said to a call that is repeated because its success was not heard of."""


class Wanted:
    """What was asked for and acknowledged. A value of None: gone."""

    def __init__(self) -> None:
        self.instances: dict[str, str | None] = {}
        self.types: dict[str, str] = {}
        self.volumes: dict[str, str | None] = {}
        """The instance that has it; "" for none."""
        self.snapshots: dict[str, str | None] = {}


class Traffic(threading.Thread):
    """``writers``: the instances that are there for good. ``say`` is told what must not be."""

    def __init__(
        self, cloud: Cloud, seed: int, image: str, wanted: Wanted, hosts: int, say: Callable[[str], None]
    ) -> None:
        super().__init__(name="traffic", daemon=True)
        self._clients = {
            name: api.client(cloud, name, read_timeout_s=READ_SECONDS) for name in ("ec2", "fleet")
        }
        self._zone = f"{cloud.config().region}a"
        self._chance = random.Random(seed)
        self._image = image
        self._hosts = hosts
        self._wanted = wanted
        self._keep = frozenset(wanted.instances)
        self._say = say
        self._ends = threading.Event()
        self.calls: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.unanswered = 0

    def run(self) -> None:
        acts = [
            self._launch, self._terminate, self._stop_start, self._create_volume, self._delete_volume,
            self._attach, self._detach, self._snapshot, self._delete_snapshot, self._migrate, self._resize,
            self._drain,
        ]  # fmt: skip
        while not self._ends.wait(self._chance.uniform(*PAUSE_SECONDS)):
            self._chance.choice(acts)()

    def close(self) -> None:
        self._ends.set()
        self.join()

    # ---- calls

    def call(self, service: str, operation: str, **parameters: Any) -> dict[str, Any] | None:
        """Repeated until it is answered; None: it was refused, or not answered in time."""
        from botocore import xform_name
        from botocore.exceptions import BotoCoreError, ClientError

        deadline, again = time.monotonic() + ANSWER_SECONDS, False
        while True:
            try:
                done: dict[str, Any] = getattr(self._clients[service], xform_name(operation))(**parameters)
            except ClientError as error:
                code = error.response["Error"]["Code"]
                if again and code in DONE_ALREADY.get(operation, ()):
                    return {}
                self._refused(operation, error.response)
                return None
            except BotoCoreError as error:
                again = True
                self.unanswered += 1
                if time.monotonic() > deadline:
                    self._say(f"{operation} was not answered for {ANSWER_SECONDS:.0f} s: {error}")
                    return None
                time.sleep(AGAIN_SECONDS)
            else:
                self.calls[operation] += 1
                return done

    def _refused(self, operation: str, response: dict[str, Any]) -> None:
        code, message = response["Error"]["Code"], response["Error"]["Message"]
        self.refused[f"{operation}: {code}"] += 1
        if response["ResponseMetadata"]["HTTPStatusCode"] >= 500 and code not in HONEST:
            self._say(f"{operation} failed: {code}: {message}")

    # ---- what there is to choose from

    def _instances(self, state: str = "running", *, extra: bool = False) -> list[str]:
        wanted = self._wanted.instances
        return sorted(id for id in wanted if wanted[id] == state and not (extra and id in self._keep))

    def _volumes(self, *, attached: bool) -> list[str]:
        """Of those that were made by themselves."""
        return sorted(
            id for id, at in self._wanted.volumes.items() if at is not None and bool(at) is attached
        )

    def _one(self, ids: list[str]) -> str | None:
        return self._chance.choice(ids) if ids else None

    # ---- instances

    def _launch(self) -> None:
        extras = [*self._instances(extra=True), *self._instances("stopped", extra=True)]
        if len(extras) >= EXTRAS_MAX:
            return
        asked = {"ImageId": self._image, "InstanceType": SMALL, "MinCount": 1, "MaxCount": 1}
        token = f"chaos-{self._chance.getrandbits(64):x}"
        if made := self.call("ec2", "RunInstances", **asked, ClientToken=token):
            [instance] = made["Instances"]
            self._wanted.instances[instance["InstanceId"]] = "running"
            self._wanted.types[instance["InstanceId"]] = SMALL

    def _terminate(self) -> None:
        extras = [*self._instances(extra=True), *self._instances("stopped", extra=True)]
        if (id := self._one(extras)) and self.call("ec2", "TerminateInstances", InstanceIds=[id]) is not None:
            self._wanted.instances[id] = None
            for volume in [volume for volume, at in self._wanted.volumes.items() if at == id]:
                self._wanted.volumes[volume] = ""

    def _stop_start(self) -> None:
        if id := self._one(self._instances("stopped", extra=True)):
            if self.call("ec2", "StartInstances", InstanceIds=[id]) is not None:
                self._wanted.instances[id] = "running"
        elif (id := self._one(self._instances(extra=True))) and (
            self.call("ec2", "StopInstances", InstanceIds=[id]) is not None
        ):
            self._wanted.instances[id] = "stopped"

    def _migrate(self) -> None:
        if id := self._one(self._instances()):
            self.call("fleet", "MigrateInstance", InstanceId=id)

    def _resize(self) -> None:
        if id := self._one(self._instances()):
            type = SMALL if self._wanted.types[id] == LARGE else LARGE
            if self.call("fleet", "ResizeInstance", InstanceId=id, InstanceType=type) is not None:
                self._wanted.types[id] = type

    def _drain(self) -> None:
        host = f"host-{self._chance.randrange(self._hosts)}"
        seconds = self._chance.uniform(*DRAIN_SECONDS)
        if self.call("fleet", "DrainHost", HostId=host) is not None:
            self._ends.wait(seconds)
        self.call("fleet", "ActivateHost", HostId=host)

    # ---- volumes

    def _create_volume(self) -> None:
        if sum(at is not None for at in self._wanted.volumes.values()) >= VOLUMES_MAX:
            return
        token = f"chaos-{self._chance.getrandbits(64):x}"
        asked = {"AvailabilityZone": self._zone, "Size": 1, "ClientToken": token}
        if made := self.call("ec2", "CreateVolume", **asked):
            self._wanted.volumes[made["VolumeId"]] = ""

    def _delete_volume(self) -> None:
        if (id := self._one(self._volumes(attached=False))) and (
            self.call("ec2", "DeleteVolume", VolumeId=id) is not None
        ):
            self._wanted.volumes[id] = None

    def _attach(self) -> None:
        id, instance = self._one(self._volumes(attached=False)), self._one(self._instances())
        if id and instance and sum(at == instance for at in self._wanted.volumes.values()) == 0:
            asked = {"VolumeId": id, "InstanceId": instance, "Device": "/dev/sdh"}
            if self.call("ec2", "AttachVolume", **asked) is not None:
                self._wanted.volumes[id] = instance

    def _detach(self) -> None:
        if (id := self._one(self._volumes(attached=True))) and (
            self.call("ec2", "DetachVolume", VolumeId=id) is not None
        ):
            self._wanted.volumes[id] = ""

    # ---- snapshots

    def _snapshot(self) -> None:
        if sum(state is not None for state in self._wanted.snapshots.values()) >= SNAPSHOTS_MAX:
            return
        there = sorted(id for id, at in self._wanted.volumes.items() if at is not None)
        if (id := self._one(there)) and (made := self.call("ec2", "CreateSnapshot", VolumeId=id)):
            self._wanted.snapshots[made["SnapshotId"]] = "completed"

    def _delete_snapshot(self) -> None:
        there = sorted(id for id, state in self._wanted.snapshots.items() if state is not None)
        if (id := self._one(there)) and self.call("ec2", "DeleteSnapshot", SnapshotId=id) is not None:
            self._wanted.snapshots[id] = None
