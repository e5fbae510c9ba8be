"""The agent's process on one host; with ``--evacuate``, the end of this cloud on the host."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

from gureum.agent.agent import Agent, Identity
from gureum.agent.evacuate import evacuate
from gureum.cli.config import CloudConfig
from gureum.env import Env
from gureum.errors import GureumError
from gureum.files import write_atomically
from gureum.hostspec import Metadata
from gureum.hypervisors.qemu.hypervisor import QemuHypervisor
from gureum.hypervisors.qemu.probe import probe_kvm
from gureum.network.kernel import KernelNetwork
from gureum.processes import arguments, log_to_stderr
from gureum.san.local import LocalPool
from gureum.transport.link import connect

log = logging.getLogger(__name__)

HOST = "host-0"
EVACUATING = "agent.evacuating"


def identity(config: CloudConfig) -> Identity:
    """This machine, standing for every zone."""
    pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return Identity(
        cloud=config.name,
        host=HOST,
        zone="",
        boot_id=Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        cpus=os.cpu_count() or 1,
        memory_bytes=pages * page_bytes,
    )


class Parts:
    """The host's hypervisor, pool and network, as this process has them."""

    def __init__(self, state_dir: Path, config: CloudConfig, env: Env, accelerator: str) -> None:
        run = state_dir / "run"
        self.agent: Agent | None = None
        self.hypervisor = QemuHypervisor(env, run, accelerator)
        self.pool = LocalPool(env, state_dir / "pool")
        self.network = KernelNetwork(env, config.name, config.index, run, self._metadata, config.public_cidr)

    def _metadata(self, instance: str) -> Metadata | None:
        return self.agent.metadata(instance) if self.agent is not None else None


async def accelerator(state_dir: Path) -> str:
    """KVM where it really boots something, emulation elsewhere."""
    verdict = await probe_kvm(state_dir / "run")
    if verdict.works:
        return "kvm"
    log.warning("guests run emulated (TCG), about ten times slower than with KVM: %s", verdict.reason)
    return "tcg"


async def serve(state_dir: Path, env: Env) -> None:
    """Serve until SIGTERM; guests and their network go on after that."""
    config = CloudConfig.load(state_dir)
    run = state_dir / "run"
    if (run / EVACUATING).exists():
        log.warning("the last shutdown of the guests was interrupted; completing it first")
        await end(state_dir, env)
    parts = Parts(state_dir, config, env, await accelerator(state_dir))
    agent = parts.agent = Agent(
        env,
        identity(config),
        parts.hypervisor,
        parts.pool,
        parts.network,
        lambda: connect(run / "agents.sock"),
        state_dir / "agent.spec",
    )
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    write_atomically(run / "agent.ready", f'{{"pid": {os.getpid()}}}\n'.encode(), durable=False)
    work = asyncio.create_task(agent.run())
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait([work, stopped], return_when=asyncio.FIRST_COMPLETED)
    work.cancel()
    stopped.cancel()
    try:
        await work
    except asyncio.CancelledError:
        pass
    finally:
        await parts.network.close()
        await parts.hypervisor.close()
        await parts.pool.close()


async def end(state_dir: Path, env: Env) -> None:
    """Shut the guests down and take this cloud's network off the host."""
    parts = Parts(state_dir, CloudConfig.load(state_dir), env, await accelerator(state_dir))
    try:
        await evacuate(parts.hypervisor, parts.network, state_dir / "run" / EVACUATING)
    finally:
        await parts.hypervisor.close()


def main() -> int:
    options = arguments("gureum.agent", "The agent of a host; `gureum up` starts it.")
    log_to_stderr()
    env = Env()
    try:
        asyncio.run((end if options.evacuate else serve)(options.state_dir, env))
    except GureumError as error:
        log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
