"""This machine as one with managers of a cloud that was made on another."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec.structs import replace

from gureum.agent.certificate import DIRECTORY
from gureum.cli.cloud import Cloud, check_config, check_port
from gureum.cli.config import (
    AUTHORITY_DIRECTORY,
    DEFAULT_HOST,
    LOOPBACK,
    CloudConfig,
    claim_index,
    default_base,
    make_state_dir,
)
from gureum.cli.join import agents_settings, ask, ensure_authority, host_name, require_same_cloud, trusted
from gureum.cli.output import USAGE, CliError
from gureum.control import sharing
from gureum.errors import ConfigError, NetworkError, StoreError, TransportError
from gureum.files import make_directories
from gureum.network import uplink
from gureum.store.postgres.address import Address
from gureum.store.postgres.examine import examine
from gureum.store.postgres.leadership import Leader
from gureum.transport import tls
from gureum.transport import token as tokens
from gureum.transport.messages import JoinManager, ManagerJoined

ELSEWHERE = "name it as this machine reaches it, with --store"


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What is this machine's own, as options of the command line; None where there was none."""

    name: str | None = None
    agents: str | None = None
    port: int | None = None
    host: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    store: str | None = None


def join(
    cloud: Cloud, url: str, token: str, wanted: Wanted, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Raises CliError."""
    if cloud.exists:
        raise CliError(
            f"{cloud.state_dir} has a cloud already",
            "choose another directory with --state-dir",
            exit_code=USAGE,
        )
    joined = cloud.joined()
    try:
        fingerprint, secret = tokens.read(token)
        if joined is not None:
            require_same_cloud(cloud.state_dir / DIRECTORY, fingerprint, joined.cloud)
        address = tls.Address.parse(url)
        own = _own_settings(address, wanted)
        if wanted.store is not None:
            _leader(wanted.store, ELSEWHERE)
    except (ConfigError, NetworkError) as error:
        raise CliError(str(error), exit_code=USAGE) from error
    check_config(own)
    check_port(own)
    try:
        make_state_dir(cloud.state_dir)
        answer = asyncio.run(_ask(cloud, address, fingerprint, secret, own))
        config = _common(own, answer, wanted.store, claim_index(cloud.state_dir, default_base()))
        _check_store(config)
        sharing.keep(cloud.state_dir, answer)
        ensure_authority(cloud, config)
        # Last: with it this directory is a cloud's.
        config.save(cloud.state_dir)
    except (TransportError, ConfigError, StoreError) as error:
        raise CliError(f"joining failed: {error}") from error
    except OSError as error:
        raise CliError(f"{cloud.state_dir} cannot be used: {error.strerror}") from error
    progress(f"this machine has all that a manager of cloud {config.name} needs")
    if (config.host or DEFAULT_HOST) in LOOPBACK:
        progress("while it leads, commands of other machines do not reach its API: gureum up --host ADDRESS")
    cloud.start(config, progress)
    return {"cloud": config.name, "machine": config.machine, "agents": config.agents_url}


def _own_settings(address: tls.Address, wanted: Wanted) -> CloudConfig:
    """Of a cloud that is not known yet. Raises CliError, NetworkError."""
    at = wanted.agents or str(tls.Address(uplink.towards(address.host)[1], address.port))
    own = CloudConfig(
        name="", index=0, account_id="", access_key_id="", secret_access_key="", hosts=0,
        machine=wanted.name or host_name(),
    )  # fmt: skip
    given = {name: getattr(wanted, name) for name in ("host", "port", "tls_cert", "tls_key")}
    given = {name: value for name, value in given.items() if value is not None}
    return replace(own, **agents_settings(at), **given)


async def _ask(
    cloud: Cloud, address: tls.Address, fingerprint: str, secret: bytes, own: CloudConfig
) -> ManagerJoined:
    """Raises TransportError, ConfigError, OSError."""
    # Needs much memory, and only here.
    from gureum.transport import authority

    directory = cloud.state_dir / DIRECTORY
    make_directories(directory, 0o700)
    context = await trusted(directory, address, fingerprint)
    agents = str(tls.Address.parse(own.agents_url))
    key = authority.key_of_managers(cloud.state_dir / AUTHORITY_DIRECTORY)
    request = JoinManager(secret=secret, name=own.machine, agents=agents, endpoint=own.far_endpoint, key=key)
    answer = await ask(address, context, request)
    if not isinstance(answer, ManagerJoined):
        raise TransportError(f"{address} answered with {type(answer).__name__}")
    return answer


def _common(own: CloudConfig, answer: ManagerJoined, store: str | None, index: int) -> CloudConfig:
    """Raises ConfigError."""
    shared = dict(answer.config)
    public = shared.pop("public_cidr")
    config = replace(own, **shared, public=public, index=index)
    return replace(config, store=Address.parse(store or config.store).url)


def _check_store(config: CloudConfig) -> None:
    """Raises CliError unless it is the cloud's, ConfigError."""
    todo = f"{ELSEWHERE}, and a new token"
    if _leader(config.store, todo).cloud != config.identity:
        place = Address.parse(config.store).place
        raise CliError(f"{place} is not the store of cloud {config.name}", todo)


def _leader(store: str, todo: str) -> Leader:
    """Raises CliError if it cannot be used from here, ConfigError."""
    try:
        return asyncio.run(examine(Address.parse(store))).leader
    except StoreError as error:
        raise CliError(str(error), todo) from error
