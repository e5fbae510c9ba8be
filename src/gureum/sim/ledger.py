"""What a client was promised, and whether it came true."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gureum.resources import Address, Instance, InstanceState, Snapshot, Volume
from gureum.store.base import Reader

Input = Mapping[str, Any]


class Ledger:
    """Every acknowledged change. A call without an answer may have had its effect, or may have it yet."""

    def __init__(self) -> None:
        self.launched: dict[str, int] = {}
        """Instances, and when they were launched: the number of the call."""
        self.terminated: set[str] = set()
        self.may_be_terminated: set[str] = set()
        self.stopped: set[str] = set()
        """Asked to stop, and certainly not to start since."""
        self.may_be_stopped: set[str] = set()
        self.made: dict[str, set[str]] = {"volume": set(), "snapshot": set(), "address": set()}
        self.deleted: dict[str, set[str]] = {"volume": set(), "snapshot": set(), "address": set()}
        self.may_be_deleted: dict[str, set[str]] = {"volume": set(), "snapshot": set(), "address": set()}
        self.sizes: dict[str, int] = {}
        """The last size in GiB that a volume was granted."""
        self.tokens: dict[str, frozenset[str]] = {}
        self.broken: list[str] = []

    def called(self, name: str, input: Input, output: Input | None) -> None:
        """Take note of a call that was not refused; no ``output``: it was not answered."""
        match name:
            case "RunInstances":
                self._launched(input, output)
            case "TerminateInstances" | "StopInstances" | "StartInstances":
                self._changed(name, input["InstanceIds"][0], output is not None)
            case "CreateVolume" if output is not None:
                self.made["volume"].add(output["VolumeId"])
            case "CreateSnapshot" if output is not None:
                self.made["snapshot"].add(output["SnapshotId"])
            case "AllocateAddress" if output is not None:
                self.made["address"].add(output["AllocationId"])
            case "DeleteVolume":
                self._deleted("volume", input["VolumeId"], output)
            case "DeleteSnapshot":
                self._deleted("snapshot", input["SnapshotId"], output)
            case "ReleaseAddress":
                self._deleted("address", input["AllocationId"], output)
            case "ModifyVolume" if output is not None:
                self.sizes[input["VolumeId"]] = input["Size"]

    def _launched(self, input: Input, output: Input | None) -> None:
        if output is None:
            return
        ids = frozenset(each["InstanceId"] for each in output["Instances"])
        for id in sorted(ids):
            self.launched.setdefault(id, len(self.launched))
        token = input.get("ClientToken")
        if token and self.tokens.setdefault(token, ids) != ids:
            self.broken.append(f"client token {token} launched {ids} and {self.tokens[token]}")

    def _changed(self, name: str, id: str, answered: bool) -> None:
        if name == "TerminateInstances":
            (self.terminated if answered else self.may_be_terminated).add(id)
        elif name == "StartInstances":
            self.stopped.discard(id)
        else:
            self.may_be_stopped.add(id)
            if answered:
                self.stopped.add(id)

    def _deleted(self, kind: str, id: str, output: Input | None) -> None:
        (self.deleted if output is not None else self.may_be_deleted)[kind].add(id)

    async def at_rest(self, reader: Reader) -> list[str]:
        """Promises that did not come true; empty if all did. Only once nothing happens any more."""
        instances = {each.id: each for each in await reader.find(Instance)}
        volumes = {each.id: each for each in await reader.find(Volume)}
        present = {
            "volume": volumes.keys(),
            "snapshot": {each.id for each in await reader.find(Snapshot)},
            "address": {each.id for each in await reader.find(Address)},
        }
        return [
            *self.broken,
            *self._instances(instances),
            *self._tokens(instances),
            *self._data(present),
            *self._sizes(volumes),
        ]

    def _instances(self, instances: Mapping[str, Instance]) -> Iterator[str]:
        off = (InstanceState.stopped, InstanceState.terminated)
        for id in self.launched:
            instance = instances.get(id)
            if instance is None:
                yield f"{id} was launched and is gone"
                continue
            if id in self.terminated and instance.state is not InstanceState.terminated:
                yield f"{id} is {instance.state} and was terminated"
            if id in self.stopped and instance.state not in off:
                yield f"{id} is {instance.state} and was stopped"
            asked = self.terminated | self.may_be_terminated | self.may_be_stopped
            if instance.state in off and id not in asked:
                code = instance.state_reason.code if instance.state_reason else ""
                if not code.startswith("Server.") and code != "Client.InstanceInitiatedShutdown":
                    yield f"{id} is {instance.state} for no reason ({code})"

    def _tokens(self, instances: Mapping[str, Instance]) -> Iterator[str]:
        reservations: dict[str, set[str]] = {}
        for instance in instances.values():
            if instance.client_token:
                reservations.setdefault(instance.client_token, set()).add(instance.reservation)
        for token, found in sorted(reservations.items()):
            if len(found) > 1:
                yield f"client token {token} launched {len(found)} times"

    def _data(self, present: Mapping[str, Any]) -> Iterator[str]:
        for kind, there in present.items():
            for id in sorted(self.made[kind]):
                if id in self.deleted[kind] and id in there:
                    yield f"{id} was deleted and is there"
                if id not in self.deleted[kind] | self.may_be_deleted[kind] and id not in there:
                    yield f"{id} was made, not deleted, and is gone"

    def _sizes(self, volumes: Mapping[str, Volume]) -> Iterator[str]:
        for id, gib in self.sizes.items():
            volume = volumes.get(id)
            if volume is None or volume.size_bytes >= gib << 30 or volume.modification is None:
                continue
            if volume.modification.state != "failed":
                yield f"{id} has {volume.size_bytes} bytes, and was granted {gib} GiB"
