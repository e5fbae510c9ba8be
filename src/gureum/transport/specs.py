"""Specs on a link: the first one whole, each further one as what is different.

A spec of a host in a large VPC has megabytes, nearly all of it where the ports of other hosts are, and one
change concerns many hosts. So a part that stayed the same is not sent again, and of the remote ports only
those that changed. If nothing changed, what is left is the newer revision.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import msgspec
from msgspec.structs import fields, replace

from gureum.errors import TransportError
from gureum.hostspec import HostSpec, NetworkSpec, RemoteSpec
from gureum.transport.messages import Spec, SpecChange

HOST_PARTS = {
    field.name: msgspec.msgpack.Decoder(field.type)
    for field in fields(HostSpec)
    if field.name not in ("cloud", "host", "revision", "network")
}
NETWORK_PARTS = {
    field.name: msgspec.msgpack.Decoder(field.type)
    for field in fields(NetworkSpec)
    if field.name != "remotes"
}
_encode = msgspec.msgpack.Encoder().encode


class Sender:
    """The sending end, of one host: it remembers what the other end has."""

    def __init__(self) -> None:
        self._revision = 0
        self._digests: dict[str, bytes] = {}
        self._remotes: tuple[RemoteSpec, ...] = ()

    def forget(self) -> None:
        """The other end may not have what was sent: begin anew."""
        self._revision = 0

    def message(self, spec: HostSpec) -> Spec | SpecChange:
        """What to send, as the next message about specs, for the other end to have this one."""
        changed: dict[str, msgspec.Raw] = {}
        for name, body in _parts(spec):
            digest = blake2b(body, digest_size=16).digest()
            if self._digests.get(name) != digest:
                self._digests[name] = digest
                changed[name] = msgspec.Raw(body)
        base, self._revision = self._revision, spec.revision
        before, self._remotes = self._remotes, spec.network.remotes
        if not base:
            return Spec(spec)
        remotes, gone = _difference(before, self._remotes)
        return SpecChange(base=base, revision=spec.revision, parts=changed, remotes=remotes, gone=gone)


def _difference(
    before: tuple[RemoteSpec, ...], now: tuple[RemoteSpec, ...]
) -> tuple[tuple[RemoteSpec, ...], tuple[str, ...]]:
    """Those that are new or different now, and the ids of those that are gone. Mostly they are the same
    objects, which is quick to see.
    """
    if before == now:
        return (), ()
    had = {each.id: each for each in before}
    return tuple(each for each in now if not _same(had.pop(each.id, None), each)), tuple(sorted(had))


def _same(one: RemoteSpec | None, other: RemoteSpec) -> bool:
    return one is other or one == other


def _parts(spec: HostSpec) -> list[tuple[str, bytes]]:
    return [
        *((name, _encode(getattr(spec, name))) for name in HOST_PARTS),
        *((f"network.{name}", _encode(getattr(spec.network, name))) for name in NETWORK_PARTS),
    ]


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
        part = name.removeprefix("network.")
        if part != name:
            of_network[part] = NETWORK_PARTS[part].decode(body)
        else:
            of_host[name] = HOST_PARTS[name].decode(body)
    if message.remotes or message.gone:
        gone = {*message.gone, *(each.id for each in message.remotes)}
        kept = [each for each in spec.network.remotes if each.id not in gone]
        of_network["remotes"] = tuple(sorted((*kept, *message.remotes), key=lambda each: each.id))
    network = replace(spec.network, **of_network) if of_network else spec.network
    return replace(spec, revision=message.revision, network=network, **of_host)
