"""The manager's process: the gateway, the services and the cluster manager over one store."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import ssl
import sys
from collections.abc import Callable
from pathlib import Path

import uvloop

from gureum.cli.config import AUTHORITY_DIRECTORY, CloudConfig
from gureum.control import images, sharing
from gureum.control.access import Access
from gureum.control.fence_agents import FenceAgents
from gureum.control.hooks import HOOKS, UPGRADE_HOST, FileHook
from gureum.control.keys import DIRECTORY as KEYS_DIRECTORY
from gureum.control.keys import KeyStore
from gureum.control.leading import Lead, leading, say_ready
from gureum.control.machines import Standing
from gureum.control.manager import Manager
from gureum.control.storage import storage
from gureum.control.upgrade import upgrade
from gureum.dns import private_domain
from gureum.env import Env
from gureum.errors import ConfigError, GureumError
from gureum.gateway.app import Gateway
from gureum.gateway.call import Credential
from gureum.gateway.catalogue import Catalogue
from gureum.gateway.limits import Limits
from gureum.gateway.server import listen as listen_http
from gureum.hostspec import LOCAL
from gureum.processes import allow_files, arguments, log_to_stderr
from gureum.san.settings import SanSettings
from gureum.services import ebs, ec2, fleet, sts  # noqa: F401  (registers their operations)
from gureum.services.dispatch import Dispatcher
from gureum.services.ec2 import keepers
from gureum.services.ec2.defaults import ensure_defaults
from gureum.services.ec2.describe import VIEWS
from gureum.services.operation import Caller, Cloud
from gureum.store.base import Store
from gureum.transport import tls as tls_links
from gureum.transport.link import listen as listen_agents

log = logging.getLogger(__name__)


def cloud_settings(config: CloudConfig, san: SanSettings | None = None) -> Cloud:
    """``san``: where disks are, if not on each host's own."""
    shares = san if san is not None and san.kind == "ceph" else SanSettings(pool=LOCAL)
    return Cloud(
        name=config.name,
        account=config.account_id,
        region=config.region,
        zones=config.zones,
        public_cidr=config.public_cidr,
        ipv6_prefix=config.ipv6_prefix,
        one_machine=config.hosts > 1,
        dns_domain=private_domain(config.region),
        encrypted=config.encrypted,
        pool=shares.pool,
        type_pools=shares.types,
        kept_pools=shares.further,
        recovers=shares.kind == "ceph",
    )


class RootCredentials:
    """The cloud's one access key: its root's. It may be changed in ``file``, its configuration."""

    def __init__(self, config: CloudConfig, file: Path | None = None) -> None:
        self._file = file
        self._changed = 0
        self._take(config)

    def _take(self, config: CloudConfig) -> None:
        self._credential = Credential(
            access_key=config.access_key_id,
            secret=config.secret_access_key,
            principal=Caller(
                account=config.account_id,
                arn=f"arn:aws:iam::{config.account_id}:root",
                user_id=config.account_id,
                access_key=config.access_key_id,
            ),
        )

    async def __call__(self, access_key: str) -> Credential | None:
        self._look()
        return self._credential if access_key == self._credential.access_key else None

    def _look(self) -> None:
        if self._file is None:
            return
        with contextlib.suppress(OSError, ConfigError):
            changed = self._file.stat().st_mtime_ns
            if changed != self._changed:
                self._take(CloudConfig.load(self._file.parent))
                self._changed = changed


def tls(config: CloudConfig) -> ssl.SSLContext | None:
    if config.tls_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(config.tls_cert, config.tls_key)
    return context


async def open_access(
    state_dir: Path, config: CloudConfig, manager: Manager, seen: dict[str, float]
) -> Access:
    """For hosts, and managers, of other machines. ``seen``: as of Joining. Raises ConfigError, StoreError."""
    directory = state_dir / AUTHORITY_DIRECTORY
    find_image: Callable[[str], Path] = Path
    machine, keys = "", manager.keys
    if config.store and keys is not None:
        from gureum.control.standby import Mirror

        find_image, machine = Mirror(state_dir, config.machine).find, config.machine
        key = tls_links.key_in(directory / tls_links.MANAGER_CERTIFICATE)
        certificate = sharing.certificate(config)
        await manager.store.transact(lambda tx: sharing.enter(tx, config, keys, key, certificate))
    return Access(
        manager.env,
        manager.cloud,
        manager.store,
        directory,
        config.agents_url,
        manager.speak,
        lambda: storage(state_dir, SanSettings.load(state_dir)),
        machine,
        lambda: sharing.share(state_dir, CloudConfig.load(state_dir)),  # the access key may be another one
        find_image,
        manager.keys,
        seen,
    )


def standing(env: Env, config: CloudConfig, store: Store, seen: dict[str, float]) -> Standing:
    from gureum.store.postgres import Address
    from gureum.store.postgres.signs import Signs

    return Standing(env, store, Signs(Address.parse(config.store)), config.machine, seen)


async def listen_far_agents(state_dir: Path, config: CloudConfig, access: Access) -> tls_links.Listener:
    """Let hosts of other machines in. Raises ConfigError."""
    context = tls_links.manager_context(state_dir / AUTHORITY_DIRECTORY)
    server = await tls_links.listen(tls_links.Address.parse(config.agents), context, access.serve)
    log.info("hosts of other machines can join at %s", config.agents_url)
    return server


async def serve(state_dir: Path, role: str) -> None:
    """Serve until SIGTERM. Raises GureumError if the cloud cannot start, or another manager leads."""
    config = CloudConfig.load(state_dir)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with leading(state_dir, config, role, stop) as lead:
        if lead is not None:
            await _serve(state_dir, config, role, lead, stop)


async def _serve(state_dir: Path, config: CloudConfig, role: str, lead: Lead, stop: asyncio.Event) -> None:
    cloud = cloud_settings(config, SanSettings.load(state_dir))
    env = Env()
    store = lead.store
    await store.transact(upgrade)
    await store.transact(keepers.lose_anew)
    await store.transact(lambda tx: ensure_defaults(tx, env, cloud))
    await images.register_all(store, env, cloud, state_dir / "images")
    keys = KeyStore.open(env, state_dir / KEYS_DIRECTORY)
    manager = Manager(env, cloud, store, keys)
    manager.leads = lead.certain
    manager.upgrades.hook = FileHook(state_dir / HOOKS / UPGRADE_HOST)
    manager.power.switch = FenceAgents(state_dir, keys)
    gateway = Gateway(
        Dispatcher(env, cloud, store, manager, keys),
        RootCredentials(config, state_dir / "config.json"),
        env.now,
        Limits(),
        catalogue=Catalogue.open(),
        request_ids=env.uuid,
        regions=frozenset({config.region}),
        healthy=lead.certain,
    )
    VIEWS.render = gateway.fragment
    serve_own = manager.serve
    seen: dict[str, float] = {}
    if config.agents:
        manager.access = await open_access(state_dir, config, manager, seen)
        serve_own = manager.access.serve_own
    agents: list[asyncio.Server | tls_links.Listener] = [
        await listen_agents(state_dir / "run/agents.sock", serve_own)
    ]
    if manager.access is not None:
        agents.append(await listen_far_agents(state_dir, config, manager.access))
    http = await listen_http(gateway, host=config.host, port=config.port, ssl_context=tls(config))
    say_ready(state_dir / "run", role, config.endpoint, leads=True)
    log.info("manager %d answers at %s", os.getpid(), config.endpoint)
    work = [
        asyncio.create_task(lead.hold()),
        asyncio.create_task(manager.run()),
        asyncio.create_task(images.register_forever(store, env, cloud, state_dir / "images")),
    ]
    if config.agents and config.store:
        work.append(asyncio.create_task(standing(env, config, store, seen).run()))
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait([*work, stopped], return_when=asyncio.FIRST_COMPLETED)
    for server in agents:
        server.close()
    await http.stop()
    for task in [*work, stopped]:
        task.cancel()
    for result in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(result, Exception):
            raise result


def main() -> int:
    options = arguments("gureum.control", "The manager of a cloud; `gureum up` starts it.")
    log_to_stderr()
    allow_files()
    try:
        uvloop.run(serve(options.state_dir, f"manager-{options.number}" if options.number else "manager"))
    except GureumError as error:
        log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
