"""The network interfaces of a running machine: attached and detached through its monitor."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Iterable

from gureum.env import Env
from gureum.errors import HypervisorError
from gureum.hypervisors.base import Nic
from gureum.hypervisors.qemu.background import Background
from gureum.hypervisors.qemu.hotplug import ask_to_release, plug
from gureum.hypervisors.qemu.monitor import CommandError, Monitor
from gureum.hypervisors.qemu.nics import NIC_SLOTS, backend, hotplug_place, nic_device, parse_device

log = logging.getLogger(__name__)


class LiveNics:
    """``devices`` maps interfaces to QEMU's device ids, ``detaching`` are those the guest was asked to give
    up.
    """

    def __init__(self, env: Env, monitor: Monitor, changed: Callable[[], None]) -> None:
        self._env = env
        self._monitor = monitor
        self._changed = changed
        self.devices: dict[str, str] = {}
        self.detaching: set[str] = set()
        self._next = 1
        self._background = Background(f"{monitor.id}: while detaching")

    def started_with(self, interfaces: Iterable[str]) -> None:
        """The machine was just started with these."""
        self.devices = {interface: interface for interface in interfaces}

    async def load(self, known: Collection[str]) -> None:
        """Learn the interfaces of a machine that was found running, and finish what was begun with them.

        ``known``: those that it had, or was about to get. A device of another one was taken away by force.
        """
        newest: dict[str, tuple[int, str]] = {}
        for name in await self._peripherals():
            parsed = parse_device(name)
            if parsed is not None:
                interface, number = parsed
                self._next = max(self._next, number + 1)
                if interface in known:
                    newest[interface] = max(newest.get(interface, (number, name)), (number, name))
        self.devices = {interface: name for interface, (_, name) in newest.items()}
        for interface in set(known) - self.devices.keys():
            await self._drop_backend(interface)

    async def _peripherals(self) -> list[str]:
        answer = await self._monitor.execute("qom-list", {"path": "/machine/peripheral"})
        return [str(each.get("name")) for each in answer] if isinstance(answer, list) else []

    async def attach(self, nic: Nic) -> None:
        """``nic.fd`` stays open here."""
        if nic.interface in self.devices:
            return
        await self._drop_backend(nic.interface)
        number, self._next = self._next, self._next + 1
        try:
            await self._monitor.send_named_file(nic.interface, nic.fd)
            tap = {"type": "tap", "id": backend(nic.interface), "fd": nic.interface, "vhost": False}
            await self._monitor.execute("netdev_add", tap)
            self._env.crashpoint("qemu.nic.opened")
            device = await self._plug(nic, number)
        except HypervisorError:
            await self._drop_backend(nic.interface)
            raise
        self.devices[nic.interface] = device
        self._env.crashpoint("qemu.nic.plugged")
        self._changed()

    async def _plug(self, nic: Nic, number: int) -> str:
        def at(slot: int) -> dict[str, object]:
            return nic_device(nic, number, "virtio-net-pci", hotplug_place(slot))

        return await plug(self._monitor, NIC_SLOTS, nic.index, at, nic.interface)

    async def detach(self, interface: str, force: bool) -> None:
        device = self.devices.get(interface)
        if device is None:
            return
        if not await ask_to_release(self._monitor, device, force):
            await self._release(interface)
            return
        if force:
            # Without its backend the device is a cable that nothing is plugged into.
            await self._release(interface)
        elif interface in self.devices and interface not in self.detaching:
            self.detaching.add(interface)
            self._changed()

    def device_deleted(self, device: str) -> None:
        """The guest gave a device up."""
        for interface, present in self.devices.items():
            if present == device:
                self._background.start(self._release(interface))

    async def _release(self, interface: str) -> None:
        """Close the tap of an interface that no device uses any more, then show it gone."""
        self._env.crashpoint("qemu.nic.unplugged")
        await self._drop_backend(interface)
        self.devices.pop(interface, None)
        self.detaching.discard(interface)
        self._changed()

    async def _drop_backend(self, interface: str) -> None:
        """Delete the backend, or the file that was sent for it, if there is one."""
        for command, arguments in (
            ("netdev_del", {"id": backend(interface)}),
            ("closefd", {"fdname": interface}),
        ):
            with contextlib.suppress(CommandError):
                await self._monitor.execute(command, arguments)

    def close(self) -> None:
        self._background.cancel()
