"""A joined host's certificate: what it proves its name with, and the next one before that ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from gureum.cli.config import JoinedConfig
from gureum.env import Env
from gureum.errors import ConfigError, TransportError
from gureum.files import write_atomically
from gureum.transport import tls
from gureum.transport.link import Link, StreamLink
from gureum.transport.messages import Message, Refused, Renew, Renewed

log = logging.getLogger(__name__)

DIRECTORY = "tls"
CERTIFICATE = "host.pem"
"""With its key, in one file: they change together."""
REFUSED = "run/agent.refused"
LOOK_SECONDS = 600.0
REPLY_SECONDS_MAX = 30.0
RENEW_AT = 2 / 3
"""After which part of its life a certificate is renewed."""


def renewal(now: float, expires: float) -> float:
    return now + (expires - now) * RENEW_AT


class Connector:
    """Connects the agent, anew after each renewal: until then the link stands on the old certificate."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._link: StreamLink | None = None

    async def __call__(self) -> Link:
        self._link = await connect(self._state_dir)
        return _Noting(self._link, self._state_dir / REFUSED)

    def drop(self) -> None:
        if self._link is not None:
            self._link.abort()


class _Noting:
    """A link to the manager; a file keeps why the host is refused, while it is: for `gureum status`."""

    def __init__(self, link: StreamLink, file: Path) -> None:
        self._link = link
        self._file = file
        self.send = link.send
        self.close = link.close

    async def receive(self) -> Message:
        message = await self._link.receive()
        if isinstance(message, Refused):
            write_atomically(self._file, message.reason.encode(), durable=False)
        else:
            self._file.unlink(missing_ok=True)
        return message


def refusal(state_dir: Path) -> str:
    """Why the manager refuses this host, as far as its agent has heard; "" if it does not."""
    try:
        return (state_dir / REFUSED).read_text()
    except FileNotFoundError:
        return ""


async def connect(state_dir: Path) -> StreamLink:
    """With the certificate that there is now. Raises TransportError."""
    directory = state_dir / DIRECTORY
    try:
        address = tls.Address.parse(JoinedConfig.load(state_dir).manager)
        context = tls.host_context(directory / tls.AUTHORITY, directory / CERTIFICATE)
    except ConfigError as error:
        raise TransportError(str(error)) from error
    return await tls.connect(address, context)


async def renew_forever(env: Env, state_dir: Path, renewed: Callable[[], None]) -> None:
    """``renewed`` is called after each renewal."""
    while True:
        config = JoinedConfig.load(state_dir)
        if env.now() >= config.renew_at:
            try:
                await renew(env, state_dir)
                renewed()
            except (TransportError, OSError) as error:
                log.warning("the certificate, good until %.0f, is not renewed: %s", config.expires, error)
        await asyncio.sleep(LOOK_SECONDS)


async def renew(env: Env, state_dir: Path) -> None:
    """Have a new certificate, for a new key. Raises TransportError, OSError."""
    # Needs much memory, and only now and then.
    from gureum.transport import authority

    key, request = await asyncio.to_thread(authority.new_request)
    link = await connect(state_dir)
    try:
        async with asyncio.timeout(REPLY_SECONDS_MAX):
            await link.send(Renew(request))
            message = await link.receive()
    except TimeoutError as error:
        raise TransportError("the manager does not answer") from error
    finally:
        await link.close()
    if isinstance(message, Refused):
        raise TransportError(message.reason)
    if not isinstance(message, Renewed):
        raise TransportError(f"the manager answered with {type(message).__name__}")
    write_atomically(state_dir / DIRECTORY / CERTIFICATE, key + message.certificate)
    config = JoinedConfig.load(state_dir)
    renew_at = renewal(env.now(), message.expires)
    replace(config, expires=message.expires, renew_at=renew_at).save(state_dir)
    log.info("there is a new certificate")
