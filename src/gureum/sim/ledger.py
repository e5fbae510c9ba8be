"""What a client was promised, and whether it came true."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gureum.resources import (
    Address,
    Instance,
    InstanceState,
    InternetGateway,
    NatGateway,
    NatGatewayState,
    NetworkAcl,
    NetworkInterface,
    PrefixList,
    RouteTable,
    SecurityGroup,
    Snapshot,
    Subnet,
    Volume,
    Vpc,
)
from gureum.resources.record import Record
from gureum.store.base import Reader

Input = Mapping[str, Any]

KINDS: tuple[type[Record], ...] = (
    *(Volume, Snapshot, Address, Vpc, Subnet, InternetGateway, RouteTable, NetworkAcl, SecurityGroup),
    *(NetworkInterface, NatGateway, PrefixList),
)
"""What is made and deleted by calls."""
MAKERS: dict[str, tuple[type[Record], tuple[str, ...]]] = {
    "CreateVolume": (Volume, ("VolumeId",)),
    "CreateSnapshot": (Snapshot, ("SnapshotId",)),
    "AllocateAddress": (Address, ("AllocationId",)),
    "CreateVpc": (Vpc, ("Vpc", "VpcId")),
    "CreateSubnet": (Subnet, ("Subnet", "SubnetId")),
    "CreateInternetGateway": (InternetGateway, ("InternetGateway", "InternetGatewayId")),
    "CreateRouteTable": (RouteTable, ("RouteTable", "RouteTableId")),
    "CreateNetworkAcl": (NetworkAcl, ("NetworkAcl", "NetworkAclId")),
    "CreateSecurityGroup": (SecurityGroup, ("GroupId",)),
    "CreateNetworkInterface": (NetworkInterface, ("NetworkInterface", "NetworkInterfaceId")),
    "CreateNatGateway": (NatGateway, ("NatGateway", "NatGatewayId")),
    "CreateManagedPrefixList": (PrefixList, ("PrefixList", "PrefixListId")),
}
"""By operation, what it makes, and where its answer has the id."""
DELETERS: dict[str, tuple[type[Record], str]] = {
    "DeleteVolume": (Volume, "VolumeId"),
    "DeleteSnapshot": (Snapshot, "SnapshotId"),
    "ReleaseAddress": (Address, "AllocationId"),
    "DeleteVpc": (Vpc, "VpcId"),
    "DeleteSubnet": (Subnet, "SubnetId"),
    "DeleteInternetGateway": (InternetGateway, "InternetGatewayId"),
    "DeleteRouteTable": (RouteTable, "RouteTableId"),
    "DeleteNetworkAcl": (NetworkAcl, "NetworkAclId"),
    "DeleteSecurityGroup": (SecurityGroup, "GroupId"),
    "DeleteNetworkInterface": (NetworkInterface, "NetworkInterfaceId"),
    "DeleteNatGateway": (NatGateway, "NatGatewayId"),
    "DeleteManagedPrefixList": (PrefixList, "PrefixListId"),
}


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
        self.made: dict[type[Record], set[str]] = {kind: set() for kind in KINDS}
        self.deleted: dict[type[Record], set[str]] = {kind: set() for kind in KINDS}
        self.may_be_deleted: dict[type[Record], set[str]] = {kind: set() for kind in KINDS}
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
            case "ModifyVolume" if output is not None and "Size" in input:
                self.sizes[input["VolumeId"]] = input["Size"]
            case name if name in MAKERS and output is not None:
                kind, path = MAKERS[name]
                found: Any = output
                for member in path:
                    found = found[member]
                self.made[kind].add(found)
            case name if name in DELETERS:
                kind, member = DELETERS[name]
                (self.deleted if output is not None else self.may_be_deleted)[kind].add(input[member])

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

    async def at_rest(self, reader: Reader) -> list[str]:
        """Promises that did not come true; empty if all did. Only once nothing happens any more."""
        instances = {each.id: each for each in await reader.find(Instance)}
        volumes = {each.id: each for each in await reader.find(Volume)}
        present = {kind: {each.id for each in await reader.find(kind) if not _gone(each)} for kind in KINDS}
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
                if id not in self.terminated | self.may_be_terminated:
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

    def _data(self, present: Mapping[type[Record], set[str]]) -> Iterator[str]:
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


def _gone(record: Record) -> bool:
    """A NAT gateway is described for a while after it was deleted."""
    return isinstance(record, NatGateway) and record.state is NatGatewayState.deleted
