"""How an agent reaches the manager that leads, and the certificate that it proves its host's name with.

Managers that do not lead listen nowhere. So wherever one may lead is tried at the same time, and who answers
is the one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from ssl import SSLContext
from typing import Protocol

import msgspec
from msgspec.structs import replace

from gureum.agent.once import Once
from gureum.cli.config import AUTHORITY_DIRECTORY, JoinedConfig
from gureum.env import Env
from gureum.errors import ConfigError, Distrusted, TransportError
from gureum.files import make_directories, write_atomically
from gureum.hostspec import HostSpec
from gureum.transport import link as unix
from gureum.transport import tls
from gureum.transport.link import Link, StreamLink
from gureum.transport.messages import Message, Refused, Renew, Renewed
from gureum.transport.seeking import first_of

log = logging.getLogger(__name__)

DIRECTORY = "tls"
CERTIFICATE = "host.pem"
"""With its key, in one file: they change together."""
LIFE = "life.json"
REFUSED = "run/agent.refused"
SPEC = "agent.spec"
LOOK_SECONDS = 600.0
LOOK_OWN_SECONDS = 5.0
REPLY_SECONDS_MAX = 30.0
RENEW_AT = 2 / 3
"""After which part of its life a certificate is renewed."""


def renewal(now: float, expires: float) -> float:
    return now + (expires - now) * RENEW_AT


def forget_managers(spec_file: Path) -> None:
    """Of the last spec, when a host joins once more: it may know none of those that there are now. Raises
    OSError.
    """
    try:
        spec = msgspec.msgpack.decode(spec_file.read_bytes(), type=HostSpec)
    except (FileNotFoundError, msgspec.MsgspecError):  # of the latter the agent makes nothing either
        return
    write_atomically(spec_file, msgspec.msgpack.encode(replace(spec, managers=(), manager_keys=())))


class Life(msgspec.Struct, frozen=True):
    """Of a certificate, as in JoinedConfig."""

    expires: float = 0.0
    renew_at: float = 0.0


class Credentials(Protocol):
    """Of a host: files, and what is known besides. ``host``: its name, where that has to be said."""

    host: str
    authority: Path
    certificate: Path

    def managers(self) -> Sequence[str]:
        """ADDRESS:PORT of each that may lead. Raises ConfigError."""

    def socket(self) -> Path | None:
        """Where a manager of this machine may listen, if it is for this host."""

    def renew_at(self) -> float | None:
        """When the next certificate is to be asked for; None if there is no need of any."""

    def keep(self, key: bytes, renewed: Renewed, now: float) -> None: ...

    def refused(self) -> None:
        """By the manager that leads."""


class OfJoined:
    """``known``: managers that the last spec named. Where the host joined is tried as well: it may be the
    only way for it, if addresses are translated in between.
    """

    host = ""

    def __init__(self, state_dir: Path, known: Callable[[], Sequence[str]] = tuple) -> None:
        self._state_dir = state_dir
        self._known = known
        self.authority = state_dir / DIRECTORY / tls.AUTHORITY
        self.certificate = state_dir / DIRECTORY / CERTIFICATE

    def managers(self) -> Sequence[str]:
        return tuple(dict.fromkeys((*self._known(), JoinedConfig.load(self._state_dir).manager)))

    def socket(self) -> Path | None:
        return None

    def renew_at(self) -> float | None:
        return JoinedConfig.load(self._state_dir).renew_at

    def keep(self, key: bytes, renewed: Renewed, now: float) -> None:
        write_atomically(self.certificate, key + renewed.certificate)
        config = JoinedConfig.load(self._state_dir)
        renew_at = renewal(now, renewed.expires)
        replace(config, expires=renewed.expires, renew_at=renew_at).save(self._state_dir)

    def refused(self) -> None:
        return


class OfOwn:
    """Of a host of the machine that a cloud was made on. It needs none as long as all managers are there.

    ``known``, ``keys``: managers, and their keys, that the last spec named.
    """

    def __init__(
        self,
        env: Env,
        state_dir: Path,
        host: str,
        known: Callable[[], Sequence[str]],
        keys: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self._keys = keys
        self.host = host
        self._env = env
        self._state_dir = state_dir
        self._known = known
        self.authority = state_dir / AUTHORITY_DIRECTORY / tls.AUTHORITY
        self.certificate = state_dir / DIRECTORY / CERTIFICATE
        self._life_file = state_dir / DIRECTORY / LIFE
        self._life = Life()
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            self._life = msgspec.json.decode(self._life_file.read_bytes(), type=Life)

    def managers(self) -> Sequence[str]:
        return self._elsewhere() if self._env.now() < self._life.expires else ()

    def socket(self) -> Path | None:
        return self._state_dir / "run" / "agents.sock"

    def renew_at(self) -> float | None:
        return self._life.renew_at if self._elsewhere() else None

    def _elsewhere(self) -> Sequence[str]:
        """All there are, if there are any but this machine's. A single one that is accepted by its key is
        another's: this machine was revoked.
        """
        known = self._known()
        return known if len(known) > 1 or self._keys() else ()

    def keep(self, key: bytes, renewed: Renewed, now: float) -> None:
        make_directories(self.certificate.parent, 0o700)
        write_atomically(self.certificate, key + renewed.certificate)
        self._life = Life(renewed.expires, renewal(now, renewed.expires))
        write_atomically(self._life_file, msgspec.json.encode(self._life))

    def refused(self) -> None:
        """The store may have been put back to before it was given: another one will do."""
        self._life = Life()


class Connector:
    """Connects the agent, anew after each renewal: until then the link stands on the old certificate.
    ``accepted``: as of ``tls.connect``.
    """

    def __init__(
        self, state_dir: Path, credentials: Credentials, accepted: Callable[[], Sequence[str]] = tuple
    ) -> None:
        self._accepted = accepted
        self._credentials = credentials
        self._refused = state_dir / REFUSED
        self._link: StreamLink | None = None
        self._unanswered = Once(log)
        self._distrusted = Once(log)
        """Apart from the others: it goes on also while the one that leads answers elsewhere."""

    async def __call__(self) -> Link:
        self._link = await self.connect()
        return _Noting(self._link, self._refused, self._credentials)

    def drop(self) -> None:
        if self._link is not None:
            self._link.abort()

    async def connect(self) -> StreamLink:
        """With the manager that leads, with the certificate that there is now. Raises TransportError."""
        socket = self._credentials.socket()
        try:
            addresses = [tls.Address.parse(each) for each in self._credentials.managers()]
            if addresses or socket is None:
                context = tls.host_context(self._credentials.authority, self._credentials.certificate)
                link = await first_of(addresses, lambda address: self._connect(address, context))
                self._unanswered.done()
                return link
        except (ConfigError, TransportError) as error:
            if socket is None:
                raise TransportError(str(error)) from error
            self._unanswered.warn(f"looking for a manager on this machine only: {error}")
        # Whatever is wrong with certificates and addresses, here it is root that asks root.
        return await unix.connect(socket)

    async def _connect(self, address: tls.Address, context: SSLContext) -> StreamLink:
        try:
            return await tls.connect(address, context, self._accepted())
        except Distrusted as error:
            self._distrusted.warn(str(error))
            raise

    async def renew(self, env: Env) -> None:
        """Have a new certificate, for a new key. Raises TransportError, OSError."""
        # Needs much memory, and only now and then.
        from gureum.transport import authority

        key, request = await asyncio.to_thread(authority.new_request)
        link = await self.connect()
        try:
            async with asyncio.timeout(REPLY_SECONDS_MAX):
                await link.send(Renew(request=request, host=self._credentials.host))
                message = await link.receive()
        except TimeoutError as error:
            raise TransportError("the manager does not answer") from error
        finally:
            await link.close()
        if isinstance(message, Refused):
            raise TransportError(message.reason)
        if not isinstance(message, Renewed):
            raise TransportError(f"the manager answered with {type(message).__name__}")
        self._credentials.keep(key, message, env.now())
        log.info("there is a new certificate")

    async def renew_forever(self, env: Env) -> None:
        """Before it ends; then the agent connects anew."""
        while True:
            at = self._credentials.renew_at()
            if at is not None and env.now() >= at:
                try:
                    await self.renew(env)
                    self.drop()
                except (TransportError, OSError) as error:
                    log.warning("the host's certificate is not renewed: %s", error)
            await asyncio.sleep(LOOK_SECONDS if self._credentials.socket() is None else LOOK_OWN_SECONDS)


class _Noting:
    """A link to the manager; a file keeps why the host is refused, while it is: for `gureum status`."""

    def __init__(self, link: StreamLink, file: Path, credentials: Credentials) -> None:
        self._link = link
        self._file = file
        self._credentials = credentials
        self.send = link.send
        self.close = link.close

    async def receive(self) -> Message:
        message = await self._link.receive()
        if isinstance(message, Refused):
            write_atomically(self._file, message.reason.encode(), durable=False)
            self._credentials.refused()
        else:
            self._file.unlink(missing_ok=True)
        return message


def refusal(state_dir: Path) -> str:
    """Why the manager refuses this host, as far as its agent has heard; "" if it does not."""
    try:
        return (state_dir / REFUSED).read_text()
    except FileNotFoundError:
        return ""
