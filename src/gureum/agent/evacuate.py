"""The end of a cloud on a host: its guests are shut down, its network goes; its data stays."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path

from gureum.errors import HostError
from gureum.files import write_atomically
from gureum.hostspec import MachineState
from gureum.hypervisors.base import Hypervisor
from gureum.network.base import HostNetwork

log = logging.getLogger(__name__)

PRESS_SECONDS = 5.0
"""A guest that is still booting does not hear the power button: it is pressed again."""
PRESSES_MAX = 6
PRESSES_AGAIN_MAX = 2
"""When an earlier end was interrupted: the guests were asked then, and whoever starts the cloud waits."""

LIVE = (MachineState.starting, MachineState.running, MachineState.paused, MachineState.shutdown)


async def evacuate(hypervisor: Hypervisor, network: HostNetwork, mark: Path) -> None:
    """Ask every guest to shut down, power off those that have not after 30 s, remove the host's network.

    The machines' records stay: what should run is started again by the next agent. ``mark`` is a file that is
    there while this is under way: an agent that finds it completes the work first, else it would take guests
    that were shut down here for ones that did so by themselves.
    """
    presses = PRESSES_AGAIN_MAX if mark.exists() else PRESSES_MAX
    write_atomically(mark, b"")
    await hypervisor.recover()
    live = [status.id for status in hypervisor.machines().values() if status.state in LIVE]
    quiet = {id: asyncio.Event() for id in live}

    def changed(id: str) -> None:
        if id in quiet and hypervisor.machines()[id].state is not MachineState.running:
            quiet[id].set()

    hypervisor.subscribe(changed)
    results = await asyncio.gather(
        *(_end(hypervisor, id, quiet[id], presses) for id in live), return_exceptions=True
    )
    for id, result in zip(live, results, strict=True):
        if isinstance(result, BaseException):
            log.error("%s did not end: %s", id, result)
    await network.teardown()
    mark.unlink(missing_ok=True)
    log.info("%d guests were shut down", len(live))


async def _end(hypervisor: Hypervisor, id: str, quiet: asyncio.Event, presses: int) -> None:
    try:
        for _ in range(presses):
            if hypervisor.machines()[id].state is not MachineState.running:
                break
            await hypervisor.press_power_button(id)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PRESS_SECONDS):
                    await quiet.wait()
    except HostError as error:
        log.warning("%s could not be asked to shut down: %s", id, error)
    await hypervisor.power_off(id)
