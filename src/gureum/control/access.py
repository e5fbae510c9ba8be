"""Hosts of other machines: who may join, who may speak, and the images that they fetch.

What a certificate says was verified by TLS. Here it is looked up: only certificates that the store has, and
has not as revoked, are accepted; a link ends when its certificate is not accepted any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from msgspec.structs import replace

from gureum.control import machines
from gureum.control.keys import KeyStore
from gureum.env import Env
from gureum.errors import ConfigError, TransportError
from gureum.resources import OWN_NAME, Host, HostCertificate, HostToken, Image, ManagerMachine
from gureum.services.operation import Cloud, Joining
from gureum.store.base import Change, Reader, Store, Transaction
from gureum.transport.files import send_file
from gureum.transport.link import Link, StreamLink
from gureum.transport.messages import (
    MESSAGE_BYTES_MAX,
    AskAuthority,
    Authority,
    Fetch,
    Hello,
    Join,
    Joined,
    JoinManager,
    ManagerJoined,
    Message,
    Refused,
    Renew,
    Renewed,
    Storage,
)
from gureum.transport.tls import AUTHORITY, MANAGER_NAME, Address, Peer, fingerprint
from gureum.transport.token import identify, manager_seal

if TYPE_CHECKING:
    from gureum.transport.authority import Issued

log = logging.getLogger(__name__)

FIRST_SECONDS_MAX = 5.0
CERTIFICATES_MAX = 2
"""Of one host that are accepted: the one that it has, and the one that it is being given."""
LINKS_MAX = 16
"""Of one host at the same time: its agent's, and images that are being fetched."""
KEY = re.compile(r"[0-9a-f]{64}")
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


class Speak(Protocol):
    def __call__(
        self, link: Link, hello: Hello, certificate: HostCertificate | None = None
    ) -> Awaitable[None]: ...


class Access:
    """``directory``: the authority's. ``speak``: serves an agent from its Hello on. ``url``: for people.

    ``storage``: how a host reaches the cloud's disks; None if it has its own. Raises TransportError where
    only the manager's machine does. ``machine``: this one's name among those that have managers, "" if others
    can't; ``share``: what those get. ``find_image``: where the file of an image is on this machine;
    ``keys``: what seals tokens of managers; ``seen``: as of Joining.
    """

    def __init__(
        self,
        env: Env,
        cloud: Cloud,
        store: Store,
        directory: Path,
        url: str,
        speak: Speak,
        storage: Callable[[], Storage | None] = lambda: None,
        machine: str = "",
        share: Callable[[], ManagerJoined] | None = None,
        find_image: Callable[[str], Path] = Path,
        keys: KeyStore | None = None,
        seen: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self._keys = keys
        self._storage = storage
        self._share = share
        self._find_image = find_image
        self._env = env
        self._cloud = cloud
        self._store = store
        self._directory = directory
        self._speak = speak
        self._links: dict[tuple[str, str], set[StreamLink]] = {}
        """By the serial number of the certificate, MANAGER_NAME for a manager's, and the fingerprint of the
        key: who makes certificates of any number takes no links away from who has the key.
        """
        self._authority = (directory / AUTHORITY).read_bytes()
        self.joining = Joining(url, fingerprint(self._authority), machine, seen)

    def changed(self, change: Change) -> None:
        """End the links of a certificate that is not accepted any more."""
        record = change.record
        ended = change.id
        accepted = ""
        if change.kind == ManagerMachine.kind:
            if isinstance(record, ManagerMachine) and not record.revoked:
                return
            # All, as a machine that was removed has no key any more: who may still come is looked up then.
            ended = MANAGER_NAME
        elif isinstance(record, HostCertificate) and not record.revoked:
            if not record.key:
                return
            accepted = record.key
        for (serial, key), links in self._links.items():
            if serial == ended and key != accepted:
                for link in links:
                    link.abort()

    async def serve(self, link: StreamLink, peer: Peer | None) -> None:
        """Serve one connection to its end. Raises TransportError."""
        try:
            if peer is None:
                await self._serve_stranger(link, await _first(link))
            else:
                await self._serve_host(link, peer)
        except TransportError as error:
            with contextlib.suppress(TransportError):
                await link.send(Refused(str(error)))
            raise

    async def serve_own(self, link: Link) -> None:
        """The same for a host of this machine, by a socket that is root's: it needs no certificate there, but
        may ask for one, for when the manager of another machine leads. Raises TransportError.
        """
        message = await _first(link)
        if isinstance(message, Hello):
            await self._speak(link, message)
        elif isinstance(message, Renew) and OWN_NAME.fullmatch(message.host):
            await link.send(await self._certify(message))
        else:
            raise TransportError("not an agent")

    async def _serve_stranger(self, link: StreamLink, message: Message) -> None:
        if isinstance(message, AskAuthority):
            await link.send(Authority(self._authority))
        elif isinstance(message, Join):
            await link.send(await self._join(message))
        elif isinstance(message, JoinManager):
            await link.send(await self._join_manager(message))
        else:
            raise TransportError("a certificate is needed: join with a token first")

    async def _serve_host(self, link: StreamLink, peer: Peer) -> None:
        name = (MANAGER_NAME if peer.host == MANAGER_NAME else peer.serial, peer.key)
        links = self._links.setdefault(name, set())
        if len(links) >= LINKS_MAX:
            raise TransportError(f"this host has {LINKS_MAX} links already")
        # First among those that a revocation ends, then looked up: so none slips through between the two.
        links.add(link)
        try:
            message = await _first(link)
            if peer.host == MANAGER_NAME and isinstance(message, Fetch):
                await self._check_manager(peer)
                await send_file(link, await self._image_file(message.path))
                return
            certificate = await self._check(peer)
            link.message_bytes_max = MESSAGE_BYTES_MAX
            if isinstance(message, Hello):
                if message.host != peer.host:
                    raise TransportError(f"this certificate is of host {peer.host}, not of {message.host}")
                await self._in_use(peer)
                try:
                    async with asyncio.timeout(certificate.expires - self._env.now()):
                        await self._speak(link, message, certificate)
                except TimeoutError as error:
                    raise TransportError(f"the certificate of host {peer.host} has expired") from error
            elif isinstance(message, Renew):
                await link.send(await self._renew(peer, message))
            elif isinstance(message, Fetch):
                await send_file(link, await self._image_file(message.path))
            else:
                raise TransportError(f"{type(message).__name__} is nothing to begin with")
        finally:
            links.discard(link)
            if not links:
                self._links.pop(name, None)

    async def _check_manager(self, peer: Peer) -> None:
        async with self._store.read() as reader:
            keys = machines.accepted(await reader.find(ManagerMachine))
        if keys and peer.key not in keys:
            raise TransportError("the machine of this manager was revoked or removed")

    async def _check(self, peer: Peer) -> HostCertificate:
        async with self._store.read() as reader:
            known = await reader.get(HostCertificate, peer.serial)
            keyless = known is not None and not known.key and await _any_revoked(reader)
        if known is None or known.host != peer.host:
            raise _unknown(peer)
        _check_key(known, peer)
        if keyless:
            raise TransportError(
                f"the certificate of host {peer.host} was given before 0.8, and was not in use between then "
                "and the revocation of a machine with managers, which could have made it, too: revoke the "
                f"host (gureum host revoke {peer.host}), and let it join again"
            )
        if known.revoked:
            raise TransportError(f"the certificate of host {peer.host} is revoked")
        if known.expires <= self._env.now():
            raise TransportError(f"the certificate of host {peer.host} has expired")
        return known

    async def _in_use(self, peer: Peer) -> None:
        """With a new certificate in use the older ones have served their time. One from before 0.8 is from
        now on good only for the key that it came with first.
        """

        async def work(tx: Transaction) -> None:
            present = await tx.get(HostCertificate, peer.serial)
            if present is None:
                raise _unknown(peer)
            _check_key(present, peer)  # another may have come first
            if not present.key:
                await tx.put(replace(present, key=peer.key))
            certificates = await tx.find(HostCertificate, host=peer.host)
            expires = next((each.expires for each in certificates if each.id == peer.serial), 0.0)
            for each in certificates:
                if each.expires < expires:
                    await tx.delete(each)

        await self._store.transact(work)

    async def _join(self, join: Join) -> Joined:
        """A certificate for who has a token, which is used up by that. Raises TransportError."""
        if not NAME.fullmatch(join.name) or OWN_NAME.fullmatch(join.name):
            raise TransportError(
                f"{join.name[:80]!r} is no name for a host: lower-case letters, digits and hyphens, and not "
                "host- with a number, as the manager's own are called; choose another with --name"
            )
        await self._usable(join)
        storage = self._storage()
        issued = await self._issue(join.name, join.request)

        async def work(tx: Transaction) -> str:
            token = await self._token(tx, join)
            await tx.delete(token)
            await self._free_name(tx, join.name)
            await tx.put(
                HostCertificate(
                    id=issued.serial,
                    account=self._cloud.account,
                    host=join.name,
                    zone=token.zone,
                    expires=issued.expires,
                    key=issued.key,
                )
            )
            # From now on it is there, so that it can be seen, and revoked, also if it never reports.
            host = await tx.get(Host, join.name)
            host = host or Host(id=join.name, account=self._cloud.account, zone=token.zone)
            await tx.put(replace(host, zone=token.zone, draining=False))
            return token.zone

        zone = await self._store.transact(work)
        log.info("host %s joined, in %s", join.name, zone)
        return Joined(
            cloud=self._cloud.name,
            host=join.name,
            zone=zone,
            public_cidr=self._cloud.public_cidr,
            certificate=issued.certificate,
            expires=issued.expires,
            storage=storage,
        )

    async def _join_manager(self, join: JoinManager) -> ManagerJoined:
        """All secrets of the cloud, for who has a token for that. Raises TransportError."""
        if self._share is None or not self.joining.manager:
            raise TransportError("this cloud's state is in a file on its machine: it has its managers there")
        if not NAME.fullmatch(join.name):
            raise TransportError(
                f"{join.name[:80]!r} is no name for a machine: lower-case letters, digits and hyphens; "
                "choose another with --name"
            )
        # As long as one is not known, all that the authority has signed are believed.
        if not KEY.fullmatch(join.key):
            raise TransportError(
                "the machine does not say which key its manager has, as no gureum before 0.8 does: install "
                "there what runs here, and join again"
            )
        try:
            agents = str(Address.parse(join.agents))
        except ConfigError as error:
            raise TransportError(str(error)) from error
        await self._store.transact(lambda tx: self._token(tx, join))  # before any secret is read
        shared = await asyncio.to_thread(self._share)

        async def work(tx: Transaction) -> None:
            await tx.delete(await self._token(tx, join))
            for other in await tx.find(ManagerMachine):
                if other.agents == agents and other.id != join.name and not other.revoked:
                    raise TransportError(f"the manager of {other.id} has the address {agents}")
            before = await tx.get(ManagerMachine, join.name)
            if before is not None and before.revoked:
                raise TransportError(
                    f"machine {join.name} was revoked as one with managers, and stays so: choose another "
                    "name with --name"
                )
            if before is not None and before.agents != agents:
                raise TransportError(
                    f"there is a machine {join.name} with a manager already: choose another name with "
                    f"--name, or let it be forgotten first (gureum manager remove {join.name})"
                )
            machine = before or ManagerMachine(
                id=join.name, account=self._cloud.account, agents=agents, endpoint=join.endpoint
            )
            await tx.put(replace(machine, endpoint=join.endpoint, key=join.key))

        await self._store.transact(work)
        log.warning("machine %s has joined with a manager, and has all secrets of the cloud", join.name)
        return shared

    async def _certify(self, renew: Renew) -> Renewed:
        """A certificate for a host of this machine."""
        issued = await self._issue(renew.host, renew.request)

        async def work(tx: Transaction) -> None:
            host = await tx.get(Host, renew.host)
            if host is None:
                raise TransportError(f"host {renew.host} has not reported yet")
            present = sorted(await tx.find(HostCertificate, host=renew.host), key=lambda each: -each.expires)
            for each in present[CERTIFICATES_MAX - 1 :]:
                await tx.delete(each)
            await tx.put(
                HostCertificate(
                    id=issued.serial,
                    account=self._cloud.account,
                    host=renew.host,
                    zone=host.zone,
                    expires=issued.expires,
                    own=True,
                    key=issued.key,
                )
            )

        await self._store.transact(work)
        return Renewed(certificate=issued.certificate, expires=issued.expires)

    async def _usable(self, join: Join) -> None:
        """Look before the work of making a certificate. Raises TransportError."""

        async def work(tx: Transaction) -> None:
            await self._token(tx, join)
            await self._free_name(tx, join.name)

        await self._store.transact(work)

    async def _token(self, tx: Transaction, join: Join | JoinManager) -> HostToken:
        token = await tx.get(HostToken, identify(join.secret))
        if token is None or token.expires <= self._env.now():
            raise TransportError("the token was used before, has expired, or never was one; make a new one")
        if token.manager is not isinstance(join, JoinManager):
            kind = "manager" if token.manager else "host"
            raise TransportError(f"the token is for a {kind}: gureum {kind} join")
        if token.manager and not self._sealed(token):
            raise TransportError("the token was made without the cloud's master key; make a new one")
        if isinstance(join, Join) and join.zone and join.zone != token.zone:
            raise TransportError(f"the token is for zone {token.zone}, not for {join.zone}")
        return token

    def _sealed(self, token: HostToken) -> bool:
        if self._keys is None:
            return False
        seal = manager_seal(self._keys.sign, token.id, token.expires)
        return hmac.compare_digest(seal.encode(), token.seal.encode())

    async def _free_name(self, tx: Transaction, name: str) -> None:
        """A name may be taken over from a machine that was revoked, or whose certificate ended."""
        for certificate in await tx.find(HostCertificate, host=name):
            if not certificate.revoked and certificate.expires > self._env.now():
                raise TransportError(
                    f"there is a host {name} already: choose another name with --name, or let it be revoked "
                    f"first (gureum host revoke {name})"
                )
            await tx.delete(certificate)

    async def _renew(self, peer: Peer, renew: Renew) -> Renewed:
        issued = await self._issue(peer.host, renew.request)

        async def work(tx: Transaction) -> None:
            present = await tx.get(HostCertificate, peer.serial)
            if present is None or present.revoked:
                raise TransportError(f"the certificate of host {peer.host} is not accepted any more")
            _check_key(present, peer)
            certificates = await tx.find(HostCertificate, host=peer.host)
            others = [each for each in certificates if each.id != peer.serial]
            for each in sorted(others, key=lambda each: -each.expires)[CERTIFICATES_MAX - 2 :]:
                await tx.delete(each)
            await tx.put(
                replace(present, id=issued.serial, version=0, expires=issued.expires, key=issued.key),
            )

        await self._store.transact(work)
        log.info("host %s has a new certificate", peer.host)
        return Renewed(certificate=issued.certificate, expires=issued.expires)

    async def _issue(self, host: str, request: bytes) -> Issued:
        # Needs what the manager else does not, and reads keys: not in its start, and not on its loop.
        def issue() -> Issued:
            from gureum.transport import authority

            return authority.issue(self._directory, host, request, self._env.now())

        return await asyncio.to_thread(issue)

    async def _image_file(self, path: str) -> Path:
        """The file, if it is part of an image that hosts may have. Raises TransportError."""
        async with self._store.read() as reader:
            images = await reader.find(Image)
        if not any(path and path in (image.disk, image.kernel, image.initrd) for image in images):
            raise TransportError("no image has such a file")
        return self._find_image(path)


def _unknown(peer: Peer) -> TransportError:
    return TransportError(f"the certificate of host {peer.host} is not known: it was removed, or renewed")


def _check_key(known: HostCertificate, peer: Peer) -> None:
    """Who was given the authority's key, and revoked, can make certificates of any number. Raises
    TransportError.
    """
    if known.key not in ("", peer.key):
        raise _unknown(peer)


async def _any_revoked(reader: Reader) -> bool:
    return any(machine.revoked for machine in await reader.find(ManagerMachine))


async def _first(link: Link) -> Message:
    try:
        async with asyncio.timeout(FIRST_SECONDS_MAX):
            return await link.receive()
    except TimeoutError as error:
        raise TransportError(f"it said nothing for {FIRST_SECONDS_MAX:g} s") from error
