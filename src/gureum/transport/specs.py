"""Specs on a link: the first one whole, each further one as what is different.

A spec of a host in a large VPC has megabytes, nearly all of it where the ports of other hosts are and what
the rules of its own ports say, and one change concerns many hosts. So a part that stayed the same is not sent
again, and of ports and groups only those that changed. If nothing changed, what is left is the newer
revision.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from itertools import pairwise
from typing import Any

import msgspec
from msgspec.structs import fields, replace

from gureum.errors import TransportError
from gureum.hostspec import Document, GroupSpec, HostSpec, NetworkSpec, PortSpec, RemoteSpec
from gureum.transport.messages import Items, Spec, SpecChange

Item = RemoteSpec | PortSpec | GroupSpec

HOST_PARTS = {
    field.name: msgspec.msgpack.Decoder(field.type)
    for field in fields(HostSpec)
    if field.name not in ("cloud", "host", "revision", "network")
}
NETWORK_PARTS = {field.name: msgspec.msgpack.Decoder(field.type) for field in fields(NetworkSpec)}
ITEMS = ("remotes", "ports", "groups")
"""Parts of a network whose things are told one by one."""
_encode = msgspec.msgpack.Encoder().encode


class Sender:
    """The sending end, of one host: it remembers what the other end has."""

    def __init__(self) -> None:
        self._revision = 0
        self._digests: dict[str, bytes] = {}
        self._items: dict[str, tuple[Item, ...]] = {}
        self._ports: tuple[PortSpec, ...] = ()
        self._standby: tuple[PortSpec, ...] = ()

    def forget(self) -> None:
        """The other end may not have what was sent: begin anew."""
        self._revision = 0

    @property
    def ports(self) -> tuple[tuple[PortSpec, ...], tuple[PortSpec, ...]] | None:
        """Those of the last spec, and those on standby; None if it has to be sent anew."""
        return (self._ports, self._standby) if self._revision else None

    def message(self, spec: HostSpec) -> Spec | SpecChange:
        """What to send, as the next message about specs, for the other end to have this one."""
        parts = self._changed("", spec, HOST_PARTS)
        network, items = self._network(spec.network)
        base, self._revision = self._revision, spec.revision
        if not base:
            return Spec(spec)
        return SpecChange(base=base, revision=spec.revision, parts={**parts, **network}, items=items)

    def network_message(self, revision: int, network: NetworkSpec) -> SpecChange:
        """The same if nothing but the network may be different from the last spec, which was sent."""
        parts, items = self._network(network)
        base, self._revision = self._revision, revision
        assert base
        return SpecChange(base=base, revision=revision, parts=parts, items=items)

    def _changed(self, prefix: str, document: Document, names: Iterable[str]) -> dict[str, msgspec.Raw]:
        parts: dict[str, msgspec.Raw] = {}
        for name in names:
            body = _encode(getattr(document, name))
            digest = blake2b(body, digest_size=16).digest()
            if self._digests.get(prefix + name) != digest:
                self._digests[prefix + name] = digest
                parts[prefix + name] = msgspec.Raw(body)
        return parts

    def _network(self, network: NetworkSpec) -> tuple[dict[str, msgspec.Raw], dict[str, Items]]:
        parts = self._changed("network.", network, [name for name in NETWORK_PARTS if name not in ITEMS])
        items: dict[str, Items] = {}
        self._ports, self._standby = network.ports, network.standby
        for name in ITEMS:
            before, now = self._items.get(name, ()), getattr(network, name)
            self._items[name] = now
            if before == now:
                continue
            if _sorted(before) and _sorted(now):
                items[name] = _difference(before, now)
            else:
                parts[f"network.{name}"] = msgspec.Raw(_encode(now))
        return parts, items


def _sorted(items: tuple[Item, ...]) -> bool:
    return all(one.id < other.id for one, other in pairwise(items))


def _difference(before: tuple[Item, ...], now: tuple[Item, ...]) -> Items:
    """Mostly they are the same objects, and few in one place are not."""
    least = min(len(before), len(now))
    start = next((at for at in range(least) if before[at] is not now[at]), least)
    rest = range(1, least - start + 1)
    end = next((at for at in rest if before[-at] is not now[-at]), least - start + 1) - 1
    had = {each.id: each for each in before[start : len(before) - end]}
    come = [each for each in now[start : len(now) - end] if not _same(had.pop(each.id, None), each)]
    return Items(msgspec.Raw(_encode(come)), tuple(sorted(had)))


def _same(one: Item | None, other: Item) -> bool:
    return one is other or one == other


class Receiver:
    """The receiving end of one link."""

    def __init__(self) -> None:
        self._spec: HostSpec | None = None

    def take(self, message: Spec | SpecChange) -> HostSpec | None:
        """The spec that the other end has now; None for a message that comes again.

        Parts that stayed the same are the same objects. Raises TransportError if a message is missing.
        """
        if isinstance(message, Spec):
            self._spec = message.spec
            return self._spec
        spec = self._spec
        if spec is None:
            raise TransportError("a change of a spec that was never sent")
        if message.revision <= spec.revision and message.base < spec.revision:
            return None
        if message.base != spec.revision:
            raise TransportError(f"a change of the spec {message.base}, and the last one is {spec.revision}")
        try:
            self._spec = _changed(spec, message)
        except (msgspec.MsgspecError, KeyError) as error:
            raise TransportError(f"not a change of a spec: {error}") from error
        return self._spec


def _changed(spec: HostSpec, message: SpecChange) -> HostSpec:
    of_host: dict[str, Any] = {}
    of_network: dict[str, Any] = {}
    for name, body in message.parts.items():
        # What a newer manager tells of, and is not known here yet, is passed over, as in a whole spec.
        part = name.removeprefix("network.")
        if part != name and part in NETWORK_PARTS:
            of_network[part] = NETWORK_PARTS[part].decode(body)
        elif part == name and name in HOST_PARTS:
            of_host[name] = HOST_PARTS[name].decode(body)
    for name in ITEMS:
        if name in message.items:
            items = message.items[name]
            come = NETWORK_PARTS[name].decode(items.come)
            gone = {*items.gone, *(each.id for each in come)}
            kept = [each for each in getattr(spec.network, name) if each.id not in gone]
            of_network[name] = tuple(sorted((*kept, *come), key=lambda each: each.id))
    if others := NETWORK_PARTS.keys() & message.items.keys() - set(ITEMS):
        raise KeyError(min(others))
    network = replace(spec.network, **of_network) if of_network else spec.network
    return replace(spec, revision=message.revision, network=network, **of_host)
