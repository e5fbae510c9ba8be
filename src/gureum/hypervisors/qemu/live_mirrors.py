"""Moving a running machine's disks to other places, by QEMU's block mirror.

The job of a volume is called ``<volume>.<n>.<target>.mirror``: it copies to the disk with number ``n``, whose
description is in the name as hexadecimal digits. It stays in QEMU's list when it has ended. So another
process of ours finds what was begun from QEMU alone.

What the guest writes meanwhile goes to both places before it is acknowledged: so the copy is complete once
the job is ready, however much the guest writes, and stays so. The price is that the guest waits for a target
that does not answer.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from typing import NamedTuple

from gureum.env import Env
from gureum.errors import HypervisorError
from gureum.hypervisors.base import Disk, Mirror, describe
from gureum.hypervisors.qemu.live_disks import LiveDisks
from gureum.hypervisors.qemu.monitor import CommandError, Monitor

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
SETTLE_SECONDS = 30.0
SETTLE_POLL_SECONDS = 0.05
_SUFFIX = ".mirror"
_NAME = re.compile(r"(.+)\.([0-9]+)\.((?:[0-9a-f]{2})+)\.mirror")


class Job(NamedTuple):
    """``number`` is that of the target's first layer."""

    id: str
    volume: str
    number: int
    target: str
    status: str
    error: str
    done_bytes: int
    total_bytes: int

    @property
    def concluded(self) -> bool:
        return self.status == "concluded"


def job_id(volume: str, number: int, target: str) -> str:
    return f"{volume}.{number}.{target.encode().hex()}{_SUFFIX}"


def parse_job(answer: object) -> Job | None:
    """One of query-jobs' answer; None if it is none of ours."""
    if not isinstance(answer, dict):
        return None
    id = str(answer.get("id"))
    name = _NAME.fullmatch(id)
    if name is None:
        return None
    target = bytes.fromhex(name[3]).decode()
    done, total = int(answer.get("current-progress", 0)), int(answer.get("total-progress", 0))
    status, error = str(answer.get("status")), str(answer.get("error", ""))
    return Job(id, name[1], int(name[2]), target, status, error, done, total)


class LiveMirrors:
    """``status`` is by volume, what is known of its move. ``changed()`` is called when that changes."""

    def __init__(self, env: Env, monitor: Monitor, disks: LiveDisks, changed: Callable[[], None]) -> None:
        self._env = env
        self._monitor = monitor
        self._disks = disks
        self._changed = changed
        self.status: dict[str, Mirror] = {}
        disks.released = self._abandon
        self._poll: asyncio.Task[None] | None = None

    async def load(self) -> None:
        """Learn of the moves of a machine that was found running, and finish those that are done."""
        for job in await self._jobs():
            if job.volume not in self._disks.devices:
                await self._abandon(job.volume)
                await self._disks.nodes.discard_unused(job.volume)
            elif job.concluded and await self._switched(job):
                await self._settle(job)
            else:
                self.status[job.volume] = _mirror(job)
        if self.status:
            self._watch()

    async def start(self, disk: Disk, bytes_per_second: int) -> None:
        """Begin to copy the volume ``disk.volume`` to ``disk.source``. Begun already: does nothing."""
        if await self._job(disk.volume) is not None:
            return
        source = (await self._disks.medium(disk.volume)).node
        # librbd before 17.1 can't tell QEMU where a clone has no data, and all of it would be written.
        opened = await self._disks.nodes.add(disk, sparse=True)
        try:
            self._env.crashpoint("qemu.mirror.opened")
            await self._monitor.execute(
                "blockdev-mirror",
                {
                    "job-id": job_id(disk.volume, opened.number, describe(disk.source)),
                    "device": source,
                    "target": opened.top,
                    "sync": "full",
                    "copy-mode": "write-blocking",
                    "speed": bytes_per_second,
                    "on-source-error": "report",
                    "on-target-error": "report",
                    "auto-dismiss": False,
                },
            )
        except HypervisorError:
            await self._disks.nodes.discard_unused(disk.volume)
            raise
        self._env.crashpoint("qemu.mirror.started")
        await self._learn()
        self._watch()

    async def finish(self, volume: str) -> None:
        """Let the guest go on with the target alone. Raises HypervisorError while the copy is not ready."""
        job = await self._must(volume)
        if job.status in ("ready", "standby"):
            self._env.crashpoint("qemu.mirror.finish")
            await self._monitor.execute("job-complete", {"id": job.id})
        elif not job.concluded:
            raise HypervisorError(
                f"{self._monitor.id}: the copy of {volume} is not ready: it is {job.status}"
            )
        job = await self._concluded(volume)
        if not await self._switched(job):
            raise HypervisorError(f"{self._monitor.id}: the move of {volume} failed: {job.error}")
        self._env.crashpoint("qemu.mirror.switched")
        await self._settle(job)

    async def cancel(self, volume: str) -> None:
        """Let the guest go on with the source alone. Not begun: does nothing.

        HypervisorError if it goes on with the target already.
        """
        job = await self._job(volume)
        if job is None:
            return
        job = await self._end(job)
        switched = await self._switched(job)
        await self._settle(job)
        if switched:
            raise HypervisorError(f"{self._monitor.id}: {volume} has moved already")

    async def _end(self, job: Job) -> Job:
        """Cancel a job, unless it has ended."""
        if job.concluded:
            return job
        try:
            await self._monitor.execute("block-job-cancel", {"device": job.id, "force": True})
        except CommandError:
            log.debug("%s: the job of %s ends by itself", self._monitor.id, job.volume)
        self._env.crashpoint("qemu.mirror.cancelled")
        return await self._concluded(job.volume)

    async def _abandon(self, volume: str) -> None:
        """The machine has no such disk any more."""
        job = await self._job(volume)
        if job is not None:
            await self._end(job)
            await self._monitor.execute("job-dismiss", {"id": job.id})
            self.status.pop(volume, None)

    async def _settle(self, job: Job) -> None:
        """Forget a job that has ended, and close what no device has any more."""
        await self._monitor.execute("job-dismiss", {"id": job.id})
        self.status.pop(job.volume, None)
        await self._disks.nodes.discard_unused(job.volume)
        self._changed()

    async def _switched(self, job: Job) -> bool:
        """Whether the device is over the target."""
        present = job.volume in self._disks.devices
        return present and await self._disks.number(job.volume) == job.number

    async def _concluded(self, volume: str) -> Job:
        """The job, once it has ended."""
        deadline = asyncio.get_running_loop().time() + SETTLE_SECONDS
        while asyncio.get_running_loop().time() < deadline:
            job = await self._must(volume)
            if job.concluded:
                return job
            await asyncio.sleep(SETTLE_POLL_SECONDS)
        raise HypervisorError(f"{self._monitor.id}: the move of {volume} does not end: its storage waits")

    async def _must(self, volume: str) -> Job:
        job = await self._job(volume)
        if job is None:
            raise HypervisorError(f"{self._monitor.id}: {volume} is not being moved")
        return job

    async def _job(self, volume: str) -> Job | None:
        return next((job for job in await self._jobs() if job.volume == volume), None)

    async def _jobs(self) -> list[Job]:
        answer = await self._monitor.execute("query-jobs")
        found = (parse_job(each) for each in answer) if isinstance(answer, list) else ()
        return [job for job in found if job is not None]

    async def _learn(self) -> None:
        """Bring ``status`` up to date."""
        found = {job.volume: _mirror(job) for job in await self._jobs()}
        if found != self.status:
            self.status = found
            self._changed()

    def _watch(self) -> None:
        if self._poll is None or self._poll.done():
            self._poll = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        while self.status:
            await asyncio.sleep(POLL_SECONDS)
            try:
                await self._learn()
            except HypervisorError as error:
                log.warning("%s: how far its disks are moved is not known: %s", self._monitor.id, error)

    def close(self) -> None:
        if self._poll is not None:
            self._poll.cancel()


def _mirror(job: Job) -> Mirror:
    error = job.error or ("it was cancelled" if job.concluded else "")
    return Mirror(
        target=job.target,
        done_bytes=job.done_bytes,
        total_bytes=job.total_bytes,
        ready=job.status in ("ready", "standby"),
        error=error,
    )
