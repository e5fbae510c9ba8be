"""A machine's disks on their way to another host, which no storage is shared with.

The destination's QEMU exports them by NBD, before its guest is there. The source's mirrors to that: what was
written so far, and from then on every write before it is acknowledged. The guest is held after its memory and
before its devices' state (pause-before-switchover): there the mirrors are ended. Nothing is written any more,
and the last thing that they do is a flush at the destination.

At the source the job of a volume is called ``<volume>.copy``, and its target ``copy.<volume>``. A job that
ended without an error stays in QEMU's list: that is what tells that the destination has all of the disk. The
connections are TLS, by the secret of the migration.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from gureum.env import Env
from gureum.errors import HypervisorError
from gureum.hypervisors.qemu.channel import format_address, listening, open_connection
from gureum.hypervisors.qemu.live_disks import LiveDisks
from gureum.hypervisors.qemu.live_nodes import items
from gureum.hypervisors.qemu.monitor import CommandError, Monitor

log = logging.getLogger(__name__)

EXPORTS = "exports"
"""The name of the listening socket, as QEMU gets it."""
STRANGERS_MAX = 8
"""Connections beside those of the source that are taken: QEMU lets go of who does not know the secret."""
OPEN_SECONDS = 10.0
"""QEMU waits for the other one's answer, and does nothing else meanwhile."""
END_SECONDS = 10.0
"""The guest is held for so long."""
DROP_SECONDS = 30.0
POLL_SECONDS = 0.005
"""The guest is held meanwhile."""
SPEED_MIN = 1 << 16
_SUFFIX, _PREFIX = ".copy", "copy."


class Copy(NamedTuple):
    """``ready``: the destination has all, and gets what is written. ``ended``: it has it all, for good."""

    volume: str
    status: str
    error: str
    done_bytes: int
    total_bytes: int

    @property
    def ready(self) -> bool:
        return self.status in ("ready", "standby")

    @property
    def concluded(self) -> bool:
        return self.status == "concluded"

    @property
    def ended(self) -> bool:
        return self.concluded and not self.error

    @property
    def over(self) -> bool:
        return self.concluded or bool(self.failure)

    @property
    def failure(self) -> str:
        """Why it can't come to its end, "" if it can."""
        if self.error or self.status in ("aborting", "null"):
            return f"{self.volume} could not be copied: {self.error or self.status}"
        return ""


def parse_copy(answer: Mapping[str, object]) -> Copy | None:
    """One of query-jobs' answer; None if it is none of these."""
    id = str(answer.get("id"))
    if not id.endswith(_SUFFIX):
        return None
    return Copy(
        id.removesuffix(_SUFFIX),
        str(answer.get("status")),
        str(answer.get("error", "")),
        int(str(answer.get("current-progress", 0))),
        int(str(answer.get("total-progress", 0))),
    )


# At the destination


async def export(monitor: Monitor, disks: LiveDisks, volumes: Sequence[str], listen: str, creds: str) -> str:
    """Let the source write these disks; the address at which it may."""
    listener = listening(listen)
    try:
        host, port = listener.getsockname()[:2]
        await monitor.send_named_file(EXPORTS, listener.fileno())
        await monitor.execute(
            "nbd-server-start",
            {
                "addr": {"type": "fd", "data": {"str": EXPORTS}},
                "tls-creds": creds,
                "max-connections": len(volumes) + STRANGERS_MAX,
            },
        )
    finally:
        listener.close()
    for volume in volumes:
        await monitor.execute(
            "block-export-add",
            {
                "type": "nbd",
                "id": _PREFIX + volume,
                "node-name": (await disks.medium(volume)).node,
                "name": volume,
                "writable": True,
            },
        )
    return format_address(host, port)


async def end_export(monitor: Monitor) -> None:
    """Nobody else writes the disks from now on."""
    with contextlib.suppress(CommandError):  # it has ended
        await monitor.execute("nbd-server-stop")


# At the source


class Roads:
    """The connections that disks are copied over. QEMU has them too; they are kept to be cut without it, as
    it answers nothing while it waits for a destination that hangs. (An agent that starts again has none.)
    """

    def __init__(self) -> None:
        self._connections: list[socket.socket] = []

    def add(self, connection: socket.socket) -> None:
        self._connections.append(connection)

    def cut(self) -> None:
        """What is copied ends with an error, and the guest's writes wait for nobody."""
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.release()

    def release(self) -> None:
        """QEMU is done with them."""
        for connection in self._connections:
            connection.close()
        self._connections.clear()


class DiskCopies:
    def __init__(self, env: Env, monitor: Monitor, disks: LiveDisks, roads: Roads) -> None:
        self._env = env
        self._monitor = monitor
        self._disks = disks
        self._roads = roads

    async def begin(
        self, volumes: Sequence[str], address: str, migration: str, creds: str, bytes_per_second: int
    ) -> None:
        """Raises HypervisorError; some may have begun then, for ``drop`` to end."""
        await self.drop()
        for volume in volumes:
            await self._open(volume, address, f"{migration}.{volume}", creds)
        for volume in volumes:
            await self._mirror(volume, _share(bytes_per_second, volumes))
        self._env.crashpoint("qemu.copies.begun")

    async def _open(self, volume: str, address: str, name: str, creds: str) -> None:
        connection = await open_connection(address)
        # What fails is cut (``drop``): QEMU may still wait for an answer, and the guest for QEMU.
        self._roads.add(connection)
        await self._monitor.send_named_file(name, connection.fileno())
        await self._monitor.execute(
            "blockdev-add",
            {
                "driver": "nbd",
                "node-name": _PREFIX + volume,
                "server": {"type": "fd", "str": name},
                "export": volume,
                "tls-creds": creds,
            },
            seconds=OPEN_SECONDS,
        )

    async def _mirror(self, volume: str, speed: int) -> None:
        await self._monitor.execute(
            "blockdev-mirror",
            {
                "job-id": volume + _SUFFIX,
                "device": (await self._disks.medium(volume)).node,
                "target": _PREFIX + volume,
                "sync": "full",
                "copy-mode": "write-blocking",
                "speed": speed,
                "on-source-error": "report",
                "on-target-error": "report",
                "auto-dismiss": False,
            },
        )

    async def limit(self, volumes: Sequence[str], bytes_per_second: int) -> None:
        for copy in await self.look():
            if not copy.concluded:
                speed = _share(bytes_per_second, volumes)
                await self._monitor.execute(
                    "block-job-set-speed", {"device": copy.volume + _SUFFIX, "speed": speed}
                )

    async def look(self) -> list[Copy]:
        found = (parse_copy(job) for job in items(await self._monitor.execute("query-jobs")))
        return [copy for copy in found if copy is not None]

    async def end(self, volumes: Collection[str]) -> tuple[str, ...]:
        """The guest is held: let the destination have the last of these disks, which it has all of then.

        Raises HypervisorError if it has not, or does not say so in time.
        """
        for copy in await self._whole(volumes):
            if copy.ready:
                # Not by force: a mirror that is ready ends where both are the same.
                await self._monitor.execute("block-job-cancel", {"device": copy.volume + _SUFFIX})
        deadline = asyncio.get_running_loop().time() + END_SECONDS
        while waits := [copy.volume for copy in await self._whole(volumes) if not copy.ended]:
            if asyncio.get_running_loop().time() >= deadline:
                raise HypervisorError(
                    f"{self._monitor.id}: the other host does not say that it has all of {', '.join(waits)}"
                )
            await asyncio.sleep(POLL_SECONDS)
        await self._close(volumes)
        self._roads.release()
        self._env.crashpoint("qemu.copies.ended")
        return tuple(sorted(volumes))

    async def _whole(self, volumes: Collection[str]) -> list[Copy]:
        """All of them, and none of them failed."""
        copies = {copy.volume: copy for copy in await self.look()}
        if missing := sorted(set(volumes) - copies.keys()):
            raise HypervisorError(f"{self._monitor.id}: {', '.join(missing)} is not being copied")
        found = [copies[volume] for volume in volumes]
        for copy in found:
            if copy.failure:
                raise HypervisorError(f"{self._monitor.id}: {copy.failure}")
        return found

    async def _close(self, volumes: Collection[str]) -> None:
        for volume in volumes:
            with contextlib.suppress(CommandError):  # there is none
                await self._monitor.execute("blockdev-del", {"node-name": _PREFIX + volume})

    async def drop(self) -> None:
        """Let the guest go on with its own disks alone, whatever the destination does."""
        self._roads.cut()
        instances = items(await self._monitor.execute("query-yank"))
        ours = [each for each in instances if str(each.get("node-name", "")).startswith(_PREFIX)]
        if ours:
            await self._monitor.execute("yank", {"instances": ours})
        deadline = asyncio.get_running_loop().time() + DROP_SECONDS
        while copies := await self.look():
            for copy in copies:
                job = copy.volume + _SUFFIX
                with contextlib.suppress(CommandError):  # it ends by itself just now
                    if copy.concluded:
                        await self._monitor.execute("job-dismiss", {"id": job})
                    else:
                        await self._monitor.execute("block-job-cancel", {"device": job, "force": True})
            if asyncio.get_running_loop().time() >= deadline:
                raise HypervisorError(f"{self._monitor.id}: the copies of its disks do not end")
            await asyncio.sleep(POLL_SECONDS)
        await self._close([str(each["node-name"]).removeprefix(_PREFIX) for each in ours])


def _share(bytes_per_second: int, volumes: Sequence[str]) -> int:
    """A job's part of the bound; 0 for none."""
    return max(bytes_per_second // len(volumes), SPEED_MIN) if bytes_per_second else 0
