"""Host links between machines: TLS 1.3 where both sides prove who they are, by certificates of one authority.

The authority is the cloud's own (``authority``), and the only one that either side trusts. Its certificates
are for one purpose each, so that no host can pass for the manager. A machine that is not a host yet has no
certificate: it can connect, and the other side sees that it has none.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from gureum.errors import ConfigError, Distrusted, TransportError
from gureum.transport.link import StreamLink

log = logging.getLogger(__name__)

DEFAULT_PORT = 4567
MANAGER_NAME = "manager.gureum.internal"
"""What the manager's certificate says, wherever it is reached."""
HANDSHAKE_SECONDS_MAX = 5.0
CONNECT_SECONDS_MAX = 5.0
SILENCE_SECONDS_MAX = 10
ACCEPT_AGAIN_SECONDS = 1.0
"""After there was, for example, no descriptor left for a connection."""
STRANGER_BYTES_MAX = 64 * 1024
"""The longest message of who was not let in yet, with a certificate or without."""
CONNECTIONS_MAX = 4096
STRANGERS_MAX = 32
UNPROVEN_MAX = 512
"""Connections whose other side has shown no certificate: none yet, or it has none."""
UNPROVEN_PER_ADDRESS_MAX = 64

VERSION_TAG = 0xA0
"""Of an element that a certificate begins with, but for those of X.509's first version."""

AUTHORITY = "ca.pem"
AUTHORITY_KEY = "ca.key"
MANAGER_CERTIFICATE = "manager.pem"
MANAGER_KEY = "manager.key"


class Peer(NamedTuple):
    """What a verified certificate says: the host's name, its own number in hexadecimal digits, and the
    fingerprint of the key that it is for.
    """

    host: str
    serial: str
    key: str = ""


class Address(NamedTuple):
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Of ``ADDRESS:PORT`` or ``https://ADDRESS:PORT``. Raises ConfigError."""
        try:
            parts = urlsplit(text if "://" in text else f"https://{text}")
            host, port = parts.hostname, parts.port or DEFAULT_PORT
        except ValueError as error:
            raise ConfigError(f"{text!r} is no address: {error}") from error
        if not host or parts.scheme != "https" or parts.path not in ("", "/"):
            raise ConfigError(f"{text!r} is no address: it has the form ADDRESS:PORT, as 192.0.2.7:4567")
        return cls(host, port)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def fingerprint(certificate: bytes) -> str:
    """The SHA-256 of a certificate in PEM, in hexadecimal digits. Raises ConfigError."""
    try:
        der = ssl.PEM_cert_to_DER_cert(certificate.decode("ascii").strip())
    except ValueError as error:
        raise ConfigError(f"not a certificate: {error}") from error
    return hashlib.sha256(der).hexdigest()


def fingerprint_of_key(public: bytes) -> str:
    """The SHA-256 of a public key, a SubjectPublicKeyInfo in DER, in hexadecimal digits."""
    return hashlib.sha256(public).hexdigest()


def key_of(certificate: bytes) -> str:
    """The same, of the key that a certificate in DER is for. Who has the authority's key can make
    certificates with any name and number, but not for a key that it does not have.
    """
    at, _ = _content(certificate, 0)
    at, _ = _content(certificate, at)  # what is signed
    if certificate[at] == VERSION_TAG:
        at = _end(certificate, at)
    for _ in range(5):  # number, algorithm, issuer, validity, subject
        at = _end(certificate, at)
    return fingerprint_of_key(certificate[at : _end(certificate, at)])


def _content(der: bytes, at: int) -> tuple[int, int]:
    """Where the content of the element at ``at`` begins, and its size: X.690, 8.1."""
    size = der[at + 1]
    if size < 0x80:
        return at + 2, size
    begin = at + 2 + (size & 0x7F)
    return begin, int.from_bytes(der[at + 2 : begin], "big")


def _end(der: bytes, at: int) -> int:
    begin, size = _content(der, at)
    return begin + size


def key_in(file: Path) -> str:
    """The same, of a certificate's file in PEM. Raises ConfigError."""
    try:
        return key_of(ssl.PEM_cert_to_DER_cert(file.read_text("ascii").strip()))
    except (OSError, ValueError, IndexError) as error:
        raise ConfigError(f"the certificate {file} cannot be used: {error}") from error


def manager_context(directory: Path) -> ssl.SSLContext:
    """For the manager's side. Raises ConfigError."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, directory / AUTHORITY)
    context.verify_mode = ssl.CERT_OPTIONAL
    _load(context, directory / MANAGER_CERTIFICATE, directory / MANAGER_KEY)
    return context


def host_context(authority: Path, certificate: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    """For the host's side; without a certificate for a machine that is not one yet. Raises ConfigError."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT, authority)
    if certificate is not None:
        _load(context, certificate, key)
    return context


def unverified_context() -> ssl.SSLContext:
    """Only to ask for the authority's certificate, which is then checked by its fingerprint."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _context(protocol: ssl._SSLMethod, authority: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # A session that is resumed would skip the look at the certificate.
    context.options |= ssl.OP_NO_TICKET
    if protocol is ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    try:
        context.load_verify_locations(authority)
    except OSError as error:
        raise ConfigError(f"the authority's certificate {authority} cannot be used: {error}") from error
    return context


def _load(context: ssl.SSLContext, certificate: Path, key: Path | None) -> None:
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:
        raise ConfigError(f"the certificate {certificate} cannot be used: {error}") from error


async def connect(address: Address, context: ssl.SSLContext, accepted: Collection[str] = ()) -> StreamLink:
    """``accepted``: the fingerprints of managers' keys; without any all that the authority has signed are.

    Raises TransportError: Distrusted if the other side is not the manager of this authority, or not accepted.
    """
    try:
        async with asyncio.timeout(CONNECT_SECONDS_MAX):
            reader, writer = await asyncio.open_connection(
                address.host, address.port, ssl=context, server_hostname=MANAGER_NAME
            )
    except ssl.SSLCertVerificationError as error:
        raise Distrusted(f"{address} is not the manager of this cloud: {error.verify_message}") from error
    except (OSError, TimeoutError, UnicodeError) as error:  # the last of a name that cannot be one
        raise TransportError(f"no manager at {address}: {error or 'no answer'}") from error
    if accepted and key_of(writer.get_extra_info("ssl_object").getpeercert(True)) not in accepted:
        writer.transport.abort()
        raise Distrusted(
            f"the manager at {address} is refused: its machine was revoked, or is none of those that were "
            "named here last. If none of them is left, this host has to join once more: gureum host join"
        )
    _notice_silence(writer)
    return StreamLink(reader, writer)


def _notice_silence(writer: asyncio.StreamWriter) -> None:
    """A machine that lost its power says nothing any more: the link is to break then, and soon."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SILENCE_SECONDS_MAX // 2)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, SILENCE_SECONDS_MAX // 5)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_SECONDS_MAX * 1000)


Serve = Callable[[StreamLink, Peer | None], Awaitable[None]]


async def listen(address: Address, context: ssl.SSLContext, serve: Serve) -> Listener:
    """Accept hosts, and machines that want to become hosts (``Peer`` None). Raises ConfigError."""
    loop = asyncio.get_running_loop()
    sockets: list[socket.socket] = []
    try:
        infos = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        for family, _, _, _, name in dict.fromkeys(infos):
            sockets.append(socket.create_server(name[:2], family=family))
    except OSError as error:
        for opened in sockets:
            opened.close()
        raise ConfigError(
            f"agents of other machines cannot be listened for at {address}: {error.strerror or error}"
        ) from error
    return Listener(sockets, context, serve)


class Listener:
    """What asyncio's own server is not: it counts connections before their handshake."""

    def __init__(self, sockets: Sequence[socket.socket], context: ssl.SSLContext, serve: Serve) -> None:
        self.sockets = tuple(sockets)
        self._context = context
        self._serve = serve
        self._connections = self._strangers = 0
        self._unproven: Counter[str] = Counter()
        self._accepting = [self._accept(each) for each in self.sockets]
        self._serving: set[asyncio.Task[None]] = set()

    def close(self) -> None:
        """Accept no more; who is served stays."""
        for task in self._accepting:
            task.cancel()

    def _accept(self, listening: socket.socket) -> asyncio.Task[None]:
        listening.setblocking(False)
        task = asyncio.create_task(self._accept_forever(listening))
        task.add_done_callback(lambda _: listening.close())  # it may be cancelled before it began
        return task

    async def _accept_forever(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, name = await loop.sock_accept(listening)
            except OSError as error:
                log.warning("a connection could not be accepted: %s", error)
                await asyncio.sleep(ACCEPT_AGAIN_SECONDS)
                continue
            if self._crowded(name[0]):
                connection.close()
                continue
            self._connections += 1
            self._unproven[name[0]] += 1
            task = asyncio.create_task(self._accepted(connection, name[0]))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

    def _crowded(self, address: str) -> bool:
        return (
            self._connections >= CONNECTIONS_MAX
            or self._unproven.total() >= UNPROVEN_MAX
            or self._unproven[address] >= UNPROVEN_PER_ADDRESS_MAX
        )

    async def _accepted(self, connection: socket.socket, address: str) -> None:
        unproven = True
        try:
            reader, writer = await self._shake_hands(connection)
            peer = peer_of(writer)
            if peer is not None:
                unproven = False
                self._proven(address)
            await self._greet(StreamLink(reader, writer, STRANGER_BYTES_MAX), peer)
        except OSError as error:
            log.debug("no handshake with %s: %s", address, error)
        finally:
            self._connections -= 1
            if unproven:
                self._proven(address)

    def _proven(self, address: str) -> None:
        self._unproven[address] -= 1
        if not self._unproven[address]:
            del self._unproven[address]

    async def _shake_hands(
        self, connection: socket.socket
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Raises OSError. The connection is closed then."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol, connection, ssl=self._context, ssl_handshake_timeout=HANDSHAKE_SECONDS_MAX
            )
        except BaseException:
            connection.close()
            raise
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        _notice_silence(writer)
        return reader, writer

    async def _greet(self, link: StreamLink, peer: Peer | None) -> None:
        if peer is None and self._strangers >= STRANGERS_MAX:
            link.abort()
            return
        self._strangers += peer is None
        try:
            await self._serve(link, peer)
        except TransportError as error:
            log.info("a link to %s ended: %s", peer.host if peer else "a machine", error)
        except Exception:
            log.exception("a link to %s ended by a fault", peer.host if peer else "a machine")
        finally:
            self._strangers -= peer is None
            await link.close()


def peer_of(writer: asyncio.StreamWriter) -> Peer | None:
    """Whose certificate was verified in the handshake; None for who has none."""
    certificate = writer.get_extra_info("peercert")
    if not certificate:
        return None
    subject = {name: value for part in certificate["subject"] for name, value in part}
    key = key_of(writer.get_extra_info("ssl_object").getpeercert(True))
    return Peer(subject.get("commonName", ""), f"{int(certificate['serialNumber'], 16):x}", key)
