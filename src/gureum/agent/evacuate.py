"""The end of a cloud on a host: its guests are shut down, its network goes; its data stays."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from gureum.errors import HostError
from gureum.hostspec import MachineState
from gureum.hypervisors.base import Hypervisor
from gureum.network.base import HostNetwork

log = logging.getLogger(__name__)

GUEST_SECONDS_MAX = 30.0

LIVE = (MachineState.starting, MachineState.running, MachineState.paused, MachineState.shutdown)


async def evacuate(hypervisor: Hypervisor, network: HostNetwork) -> None:
    """Ask every guest to shut down, power off those that have not after 30 s, remove the host's network.

    The machines' records stay: what should run is started again by the next agent.
    """
    await hypervisor.recover()
    live = [status.id for status in hypervisor.machines().values() if status.state in LIVE]
    quiet = {id: asyncio.Event() for id in live}

    def changed(id: str) -> None:
        if id in quiet and hypervisor.machines()[id].state is not MachineState.running:
            quiet[id].set()

    hypervisor.subscribe(changed)
    results = await asyncio.gather(*(_end(hypervisor, id, quiet[id]) for id in live), return_exceptions=True)
    for id, result in zip(live, results, strict=True):
        if isinstance(result, BaseException):
            log.error("%s did not end: %s", id, result)
    await network.teardown()
    log.info("%d guests were shut down", len(live))


async def _end(hypervisor: Hypervisor, id: str, quiet: asyncio.Event) -> None:
    try:
        if hypervisor.machines()[id].state is MachineState.running:
            await hypervisor.press_power_button(id)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GUEST_SECONDS_MAX):
                    await quiet.wait()
    except HostError as error:
        log.warning("%s could not be asked to shut down: %s", id, error)
    await hypervisor.power_off(id)
