"""The agent's process on one host; with ``--evacuate``, the end of this cloud on the host."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gureum.agent import certificate, storage_addresses, watched
from gureum.agent.agent import Agent
from gureum.agent.evacuate import evacuate
from gureum.agent.here import Here, on_joined, on_machine
from gureum.agent.images import FetchingHypervisor, FetchingPool
from gureum.agent.load import ProcGauge
from gureum.cli.config import JOINED
from gureum.env import Env
from gureum.errors import GureumError
from gureum.files import write_atomically
from gureum.hostspec import LOCAL, Metadata
from gureum.hypervisors.qemu.hypervisor import QemuHypervisor
from gureum.hypervisors.qemu.probe import probe_kvm
from gureum.images.fetched import Fetched, built_here
from gureum.network.kernel import KernelNetwork
from gureum.network.names import Names
from gureum.network.silence import Place, Silence
from gureum.network.uplink import is_down
from gureum.processes import allow_files, arguments, log_to_stderr
from gureum.san.base import Pool
from gureum.san.leases import Leases
from gureum.san.local import LocalPool
from gureum.san.settings import SanSettings
from gureum.transport.link import connect

if TYPE_CHECKING:
    from gureum.san.ceph.pool import RbdPool

log = logging.getLogger(__name__)

EVACUATING = "agent.evacuating"


class Parts:
    """The host's hypervisor, pool and network, as this process has them."""

    def __init__(self, here: Here, env: Env, accelerator: str) -> None:
        self.agent: Agent | None = None
        images = None
        self.san = san = SanSettings.load(here.cloud_dir)
        shared = san.kind == "ceph"
        self.connector: certificate.Connector | None = None
        if here.joined or here.several:
            proof: certificate.Credentials = certificate.OfJoined(here.directory, self._managers)
            if not here.joined:
                name = here.identity.host
                proof = certificate.OfOwn(env, here.directory, name, self._managers, self._manager_keys)
            self.connector = certificate.Connector(here.directory, proof, self._manager_keys)
            images = Fetched(
                here.directory / "fetched", self.connector.connect, partial(built_here, here.cloud_dir)
            )
            images.open()
            self.hypervisor: QemuHypervisor = FetchingHypervisor(
                env, here.run, accelerator, images, shared_disks=shared
            )
            self.pool: LocalPool = FetchingPool(env, here.directory / "pool", images)
        else:
            self.hypervisor = QemuHypervisor(env, here.run, accelerator, shared_disks=shared)
            self.pool = LocalPool(env, here.directory / "pool")
        self.leases: Leases | None = None
        self.pools: dict[str, Pool] = {LOCAL: self.pool}
        for name in san.pools:
            pool = self.pools[name] = self._rbd_pool(here, env, san.of_pool(name), images)
            if name == san.pool:
                self.leases = pool
        self.network = KernelNetwork(
            env,
            here.identity.cloud,
            here.index,
            here.run,
            self._metadata,
            here.public_cidr,
            host=here.number,
            uplink=here.uplink,
            flow_logs=here.directory / "log" / "flow-logs",
        )

    @staticmethod
    def _rbd_pool(here: Here, env: Env, san: SanSettings, images: Fetched | None) -> RbdPool:
        # Only where there is one: the others start without it.
        from gureum.agent.rbd_images import FetchingRbdPool
        from gureum.san.ceph.pool import RbdPool

        cloud, host = here.identity.cloud, here.identity.host
        if images is not None:
            return FetchingRbdPool(env, san, cloud, host, images)
        return RbdPool(env, san, cloud, host)

    def _managers(self) -> tuple[str, ...]:
        return self.agent.managers if self.agent is not None else ()

    def _manager_keys(self) -> tuple[str, ...]:
        return self.agent.manager_keys if self.agent is not None else ()

    def _metadata(self, instance: str) -> Metadata | None:
        return self.agent.metadata(instance) if self.agent is not None else None


async def accelerator(state_dir: Path) -> str:
    """KVM where it really boots something, emulation elsewhere."""
    verdict = await probe_kvm(state_dir / "run")
    if verdict.works:
        return "kvm"
    log.warning("guests run emulated (TCG), about ten times slower than with KVM: %s", verdict.reason)
    return "tcg"


async def serve(here: Here, env: Env) -> None:
    """Serve until SIGTERM; guests and their network go on after that."""
    if (here.run / EVACUATING).exists():
        log.warning("the last shutdown of the guests was interrupted; completing it first")
        await end(here, env)
    parts = Parts(here, env, await accelerator(here.cloud_dir))
    agent = parts.agent = Agent(
        env,
        here.identity,
        parts.hypervisor,
        parts.pools,
        parts.network,
        parts.connector or partial(connect, here.cloud_dir / "run" / "agents.sock"),
        here.directory / certificate.SPEC,
        parts.leases,
        watch_over(here, parts) if parts.leases is not None else None,
        partial(is_down, here.uplink) if here.uplink else lambda: False,
        ProcGauge(parts.hypervisor.processes, parts.hypervisor.used_memory, whole=not here.namespace),
    )
    if parts.leases is None:
        with contextlib.suppress(OSError):  # it has a warden no more, that may have left it so
            Silence(place(here)).end()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    ready = here.cloud_dir / "run" / f"{here.name}.ready"
    write_atomically(ready, f'{{"pid": {os.getpid()}}}\n'.encode(), durable=False)
    work = asyncio.create_task(agent.run())
    others: list[asyncio.Task[Any]] = [asyncio.create_task(stop.wait())]
    if parts.san.kind == "ceph":
        watch = storage_addresses.watch(parts.san, here.run, parts.network.deny_storage)
        others.append(asyncio.create_task(watch))
    if parts.connector is not None:
        others.append(asyncio.create_task(parts.connector.renew_forever(env)))
    await asyncio.wait([work, *others], return_when=asyncio.FIRST_COMPLETED)
    for task in (work, *others):
        task.cancel()
    try:
        for result in await asyncio.gather(work, *others, return_exceptions=True):
            if isinstance(result, Exception):
                raise result
    finally:
        await parts.network.close()
        await parts.hypervisor.close()


def watch_over(here: Here, parts: Parts) -> watched.HostWarden:
    """Raises ConfigError."""
    identity = here.identity
    watched.configure(
        here.run,
        parts.hypervisor.directory,
        parts.san,
        identity.cloud,
        identity.host,
        here.namespace,
        place(here),
    )
    return watched.HostWarden(here.directory)


def place(here: Here) -> Place:
    """Where the host's network is kept silent."""
    return Names(here.index, here.public_cidr, here.number).place(here.uplink)


async def end(here: Here, env: Env) -> None:
    """Shut the guests down and take this cloud's network off the host."""
    parts = Parts(here, env, await accelerator(here.cloud_dir))
    try:
        await evacuate(parts.hypervisor, parts.network, here.run / EVACUATING)
    finally:
        await parts.hypervisor.close()


def main() -> int:
    options = arguments("gureum.agent", "The agent of a host; `gureum up` starts it.")
    log_to_stderr()
    allow_files()
    env = Env()
    try:
        # Before any thread is started: each has the network namespace that its starter was in.
        joined = (options.state_dir / JOINED).exists()
        here = on_joined(options.state_dir) if joined else on_machine(options.state_dir, options.host)
        asyncio.run((end if options.evacuate else serve)(here, env))
    except GureumError as error:
        log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
