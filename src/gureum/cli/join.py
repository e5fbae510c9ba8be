"""This machine as a host of another machine's cloud; and a cloud that takes such hosts."""

import asyncio
import os
import re
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gureum.agent.certificate import CERTIFICATE, DIRECTORY, SPEC, forget_managers, renewal
from gureum.cli.cloud import Cloud
from gureum.cli.config import (
    AUTHORITY_DIRECTORY,
    LOOPBACK,
    CloudConfig,
    JoinedConfig,
    claim_index,
    default_base,
    make_state_dir,
)
from gureum.cli.output import USAGE, CliError
from gureum.control.storage import keep
from gureum.env import Env
from gureum.errors import ConfigError, NetworkError, TransportError
from gureum.files import make_directories, write_atomically
from gureum.network import uplink as uplinks
from gureum.transport import tls
from gureum.transport import token as tokens
from gureum.transport.messages import AskAuthority, Authority, Join, Joined, Message, Refused

ANSWER_SECONDS_MAX = 20.0
ANY = ("0.0.0.0", "::")
OFF = "off"


def host_name() -> str:
    """This machine's name as a host can be called."""
    name = re.sub(r"[^a-z0-9]+", "-", socket.gethostname().partition(".")[0].lower()).strip("-")[:63]
    return name.rstrip("-") or "machine"


def join(
    cloud: Cloud,
    url: str,
    token: str,
    *,
    name: str | None,
    uplink: str | None,
    zone: str | None,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Make this machine a host, and start its agent. Raises CliError."""
    if cloud.exists and cloud.config().hosts:
        raise CliError(
            f"{cloud.state_dir} has a cloud of its own",
            "choose another directory with --state-dir",
            exit_code=USAGE,
        )
    joined = cloud.joined()
    try:
        fingerprint, secret = tokens.read(token)
        if joined is not None:
            name = _again(cloud, joined, fingerprint, name)
        if cloud.exists:
            require_same_cloud(cloud.state_dir / AUTHORITY_DIRECTORY, fingerprint, cloud.config().name)
        address = tls.Address.parse(url)
        device = uplink or uplinks.towards(address.host)[0]
    except (ConfigError, NetworkError) as error:
        raise CliError(str(error), exit_code=USAGE) from error
    if device == "lo":
        raise CliError(
            "the way to the manager is the loopback device, where no other host reaches this one",
            "name the device towards the other hosts with --uplink",
            exit_code=USAGE,
        )
    try:
        make_state_dir(cloud.state_dir)
        directory = cloud.state_dir / DIRECTORY
        make_directories(directory, 0o700)
        answer, key = asyncio.run(
            _join(directory, address, fingerprint, secret, name or host_name(), zone or "")
        )
        config = _keep(cloud, directory, address, answer, key, device)
    except (TransportError, ConfigError) as error:
        raise CliError(f"joining failed: {error}") from error
    except OSError as error:
        raise CliError(f"{cloud.state_dir} cannot be used: {error.strerror}") from error
    progress(f"joined cloud {config.cloud} as {config.host}")
    cloud.start(cloud.config() if cloud.exists else None, progress)
    return {"cloud": config.cloud, "host": config.host, "zone": config.zone, "uplink": config.uplink}


def _again(cloud: Cloud, joined: JoinedConfig, fingerprint: str, name: str | None) -> str:
    """The name of a host that joins once more, as after it was revoked: with it, it keeps its volumes."""
    if cloud.is_running():
        raise CliError(
            f"this machine is host {joined.host} of cloud {joined.cloud}, and its agent runs",
            f"to join again, first: gureum down --keep-guests --state-dir {cloud.state_dir}",
        )
    known = tls.fingerprint((cloud.state_dir / DIRECTORY / tls.AUTHORITY).read_bytes())
    if known != fingerprint or name not in (None, joined.host):
        raise CliError(
            f"{cloud.state_dir} holds what host {joined.host} of cloud {joined.cloud} has",
            "choose another directory with --state-dir for another cloud or name",
            exit_code=USAGE,
        )
    return joined.host


def require_same_cloud(directory: Path, fingerprint: str, name: str) -> None:
    """Of the authority in ``directory``. Raises CliError."""
    if tls.fingerprint((directory / tls.AUTHORITY).read_bytes()) != fingerprint:
        raise CliError(
            f"{directory.parent} is part of cloud {name}, and the token is of another one",
            "choose another directory with --state-dir",
            exit_code=USAGE,
        )


async def _join(
    directory: Path, address: tls.Address, fingerprint: str, secret: bytes, name: str, zone: str
) -> tuple[Joined, bytes]:
    """The manager's answer, and the key of the certificate in it. Raises TransportError, ConfigError."""
    # Needs much memory, and only here.
    from gureum.transport import authority

    key, request = authority.new_request()
    context = await trusted(directory, address, fingerprint)
    answer = await ask(address, context, Join(secret=secret, name=name, zone=zone, request=request))
    if not isinstance(answer, Joined):
        raise TransportError(f"{address} answered with {type(answer).__name__}")
    return answer, key


async def trusted(directory: Path, address: tls.Address, fingerprint: str) -> ssl.SSLContext:
    """For what is secret, once it is known who is there. Raises TransportError, ConfigError."""
    answer = await ask(address, tls.unverified_context(), AskAuthority())
    if not isinstance(answer, Authority) or tls.fingerprint(answer.certificate) != fingerprint:
        raise TransportError(
            f"{address} is not the cloud that the token is for: somebody else answers there, or the token "
            "is of another cloud"
        )
    write_atomically(directory / tls.AUTHORITY, answer.certificate)
    return tls.host_context(directory / tls.AUTHORITY)


async def ask(address: tls.Address, context: ssl.SSLContext, message: Message) -> Message:
    link = await tls.connect(address, context)
    link.message_bytes_max = tls.STRANGER_BYTES_MAX
    try:
        async with asyncio.timeout(ANSWER_SECONDS_MAX):
            await link.send(message)
            answer = await link.receive()
    except TimeoutError as error:
        raise TransportError(f"{address} does not answer") from error
    finally:
        await link.close()
    if isinstance(answer, Refused):
        raise TransportError(answer.reason)
    return answer


def _keep(
    cloud: Cloud, directory: Path, address: tls.Address, answer: Joined, key: bytes, device: str
) -> JoinedConfig:
    write_atomically(directory / CERTIFICATE, key + answer.certificate)
    config = JoinedConfig(
        cloud=answer.cloud,
        host=answer.host,
        zone=answer.zone,
        public_cidr=answer.public_cidr,
        index=claim_index(cloud.state_dir, default_base()),
        manager=str(address),
        uplink=device,
        expires=answer.expires,
        renew_at=renewal(Env().now(), answer.expires),
    )
    if answer.storage is not None:
        keep(cloud.state_dir, answer.storage)
    forget_managers(cloud.state_dir / SPEC)
    # Last: with it this directory is a host's.
    config.save(cloud.state_dir)
    return config


def agents_settings(text: str | None) -> dict[str, str | None]:
    """What `up --agents-address ADDRESS:PORT` means for the configuration. Raises CliError."""
    if text is None:
        return {}
    if text == OFF:
        return {"agents": "", "agents_url": "", "uplink": ""}
    try:
        address = tls.Address.parse(text)
        if address.host in ANY:
            device, reached = uplinks.default()
        elif address.host in LOOPBACK:
            device, reached = "", address.host
        else:
            device, reached = uplinks.with_address(address.host), address.host
    except (ConfigError, NetworkError) as error:
        raise CliError(f"--agents-address {text}: {error}", exit_code=USAGE) from error
    url = f"https://{tls.Address(reached, address.port)}"
    return {"agents": str(address), "agents_url": url, "uplink": device}


def ensure_authority(cloud: Cloud, config: CloudConfig) -> None:
    """Have what proves to hosts of other machines who this cloud is. Raises CliError."""
    from gureum.transport import authority

    try:
        authority.ensure(cloud.state_dir / AUTHORITY_DIRECTORY, config.name, Env().now())
    except OSError as error:
        raise CliError(
            f"{cloud.state_dir / AUTHORITY_DIRECTORY} cannot be used: {os.strerror(error.errno or 0)}"
        ) from error
