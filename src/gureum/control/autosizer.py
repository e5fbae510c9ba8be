"""Lets instances grow and shrink by what they use: looks at their loads, and gives them another type.

What is right for one is decided in ``autosize``. Here is what that is decided about, and what keeps it calm.
What was seen is in memory only: a manager that begins anew has to look for as long again. What was done is in
the instance's record, in the transaction that did it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from msgspec.structs import replace

from gureum.breath import breathe
from gureum.control import balancer, events, growths, resizes
from gureum.control.autosize import SAMPLE_SECONDS, Level, Seen, Verdict, Window, decide
from gureum.control.fleet import Fleet
from gureum.control.observed import Observed
from gureum.control.placement import NoCapacity
from gureum.control.resizes import CannotResize
from gureum.env import Env
from gureum.errors import ApiError, StoreError
from gureum.loadspec import MachineLoad
from gureum.resources import (
    Autosize,
    AutosizeMode,
    Instance,
    InstanceMigration,
    InstanceState,
    MigrationState,
    Severity,
)
from gureum.services.ec2.instance_types import machine_size
from gureum.sizespec import MachineSize
from gureum.store.base import Change, Reader, Store, Transaction

log = logging.getLogger(__name__)

ROUND_SECONDS = 30.0
AGAIN_SECONDS = 300.0
"""When it is tried again to give an instance a type that it could not have."""
REST_SECONDS_MAX = 3600.0
"""For so long, at most, an instance is left alone the longer for migrations for this that failed."""
ACTS_MAX = 50
"""Instances that one round changes: each is a transaction, and the manager's sweep waits for them."""
SLICE = 100
"""Instances that are looked at before others have their turn."""


class Subject(NamedTuple):
    """What counts of an instance. With another ``type`` or ``generation`` it is looked at anew. ``waits``:
    why it can't change now, "" if it can.
    """

    type: str
    generation: int
    host: str
    policy: Autosize
    waits: str


class Watched:
    """An instance with a policy. ``refused``: why it was not done what should be; ``again``: when that is
    tried again, and ``rests``: until when it is left alone, on the event loop's clock. ``migration``: the one
    by which it is to become what it should be; ``setbacks``: how many of these did not, one after the other.
    """

    __slots__ = ("again", "migration", "refused", "rests", "setbacks", "subject", "told", "window")

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.window = Window()
        self.refused = ""
        self.again = self.rests = 0.0
        self.migration = ""
        self.setbacks = 0
        self.told = ""
        """The type that it should have, and could not, as was told last."""


class Sight(NamedTuple):
    """What is known of an instance with a policy. ``seconds``: for how long it was looked at. ``held``: why
    what the verdict says isn't done now, "" if it is.
    """

    seconds: float
    seen: Seen
    verdict: Verdict
    held: str


class Autosizer:
    """``step`` is to be called now and then, ``heard`` with what machines use."""

    def __init__(self, env: Env, store: Store, observed: Observed) -> None:
        self.env = env
        self._store = store
        self._observed = observed
        self._watched: dict[str, Watched] = {}
        """Those that were tried last come last."""
        self._failed: dict[str, str] = {}
        """By instance, the type that it did not become where it was to migrate to; to be told."""
        self._due = 0.0
        """When it is looked next, on the event loop's clock."""

    async def load(self, reader: Reader) -> None:
        for instance in await reader.find(Instance, autosized="yes"):
            self._note(instance)

    def changed(self, change: Change) -> None:
        """A record is as this says now."""
        if isinstance(change.record, Instance):
            self._note(change.record)
        elif isinstance(change.record, InstanceMigration):
            self._note_migration(change.record)
        elif change.kind == Instance.kind:
            self._watched.pop(change.id, None)

    def _note(self, instance: Instance) -> None:
        policy = instance.autosize
        if policy is None or instance.state is InstanceState.terminated:
            self._watched.pop(instance.id, None)
            return
        subject = _subject(instance, policy)
        before = known = self._watched.get(instance.id)
        if known is None or known.subject[:2] != subject[:2]:
            known = self._watched[instance.id] = Watched(subject)
        if before is not None and before.subject.policy == policy:
            known.rests = before.rests
        else:
            # The wall clock may jump: it is only asked how long ago what was done before was done.
            left = policy.changed + policy.cooldown - self.env.now()
            known.rests = asyncio.get_running_loop().time() + min(max(0.0, left), policy.cooldown)
        if before is not None and before.subject.type == subject.type:
            known.refused, known.migration, known.setbacks = before.refused, before.migration, before.setbacks
        known.subject = subject

    def _note_migration(self, migration: InstanceMigration) -> None:
        """One that failed is begun again, and may fail each time, for the same reason: ever more rarely."""
        known = self._watched.get(migration.instance)
        ended = migration.state in (MigrationState.failed, MigrationState.cancelled)
        if known is None or known.migration != migration.id or not ended:
            return
        known.migration = ""
        known.setbacks += 1
        cooldown = known.subject.policy.cooldown
        rest = max(cooldown, min(cooldown * 2**known.setbacks, REST_SECONDS_MAX))
        known.rests = asyncio.get_running_loop().time() + rest
        how = f"{migration.id} {migration.state}: {migration.message}"
        known.refused = f"it did not become a {migration.type}: {how}"
        self._failed[migration.instance] = migration.type

    def heard(self, loads: Mapping[str, MachineLoad]) -> None:
        """What machines used in the last seconds; ``loads.Loads`` has found it plausible."""
        if not self._watched:
            return
        now = asyncio.get_running_loop().time()
        for id, load in loads.items():
            known = self._watched.get(id)
            if known is not None and not known.subject.waits:
                known.window.take(_level(load, known.subject.type), now)

    def sight(self, instance: str) -> Sight | None:
        """None of what has no policy."""
        known = self._watched.get(instance)
        if known is None:
            return None
        subject, seen = known.subject, known.window.seen()
        verdict = decide(subject.policy, subject.type, self._size(instance, subject), seen)
        held = subject.waits or known.refused
        if not held and (left := known.rests - asyncio.get_running_loop().time()) > 0:
            held = f"it changed a while ago, and is left alone for {left:.0f} s more"
        return Sight(known.window.count * SAMPLE_SECONDS, seen, verdict, held)

    def _size(self, id: str, subject: Subject) -> MachineSize | None:
        seen = self._observed.machine(subject.host, id, subject.generation)
        return seen.size if seen is not None else None

    async def step(self) -> None:
        """Look, and change what is to be changed, if it is time to. Raises StoreError."""
        now = asyncio.get_running_loop().time()
        if now < self._due or not self._watched:
            return
        self._due = now + ROUND_SECONDS
        try:
            await self._round(now)
        except StoreError:
            raise
        except Exception:
            # Nobody waits for it: a fault here must not end the manager.
            log.exception("instances could not be sized")

    async def _round(self, now: float) -> None:
        for id in list(self._failed)[:ACTS_MAX]:
            wanted, known = self._failed.pop(id), self._watched.get(id)
            with self._apart(id, now):
                if known is not None:
                    await self._tell(id, known, wanted)
        due: list[tuple[str, Watched, Verdict]] = []
        for number, (id, known) in enumerate(list(self._watched.items())):
            if number % SLICE == SLICE - 1:
                await breathe()
            with self._apart(id, now):
                verdict = self._verdict(id, known, now)
                if verdict is not None:
                    due.append((id, known, verdict))
        if not due:
            return
        async with self._store.read() as reader:
            unrest = await self._unrest(reader)
        if unrest:
            for _, known, _ in due:
                known.refused = unrest
            return
        for id, known, verdict in due[:ACTS_MAX]:
            if id in self._watched:
                self._watched[id] = self._watched.pop(id)
            with self._apart(id, now):
                await self._act(id, known, verdict, now)

    @contextmanager
    def _apart(self, id: str, now: float) -> Iterator[None]:
        """A fault with one instance is to be none of the others'."""
        try:
            yield
        except Exception as error:
            expected = isinstance(error, StoreError)
            log.error("%s could not be sized: %s", id, error, exc_info=None if expected else error)
            if (known := self._watched.get(id)) is not None:
                known.again = now + AGAIN_SECONDS

    def _verdict(self, id: str, known: Watched, now: float) -> Verdict | None:
        """What is to be done or told of it now, if anything is."""
        subject = known.subject
        acts = subject.policy.mode is AutosizeMode.automatic and not subject.waits
        if not acts or now < max(known.again, known.rests):
            return None
        verdict = decide(subject.policy, subject.type, self._size(id, subject), known.window.seen())
        if verdict.type or verdict.stopped:
            return verdict
        known.refused = ""
        return None

    async def _unrest(self, reader: Reader) -> str:
        """Room is for what ran on lost hosts first."""
        fleet = await reader.tally(Fleet)
        return balancer.unrest([candidate.host for candidate in fleet.candidates()], self.env.now())

    async def _act(self, id: str, known: Watched, verdict: Verdict, now: float) -> None:
        known.refused = ""
        if verdict.type:
            try:
                await self._store.transact(partial(self._change, id=id, known=known, verdict=verdict))
                return
            except NoCapacity as error:
                known.refused = f"it can't become a {verdict.type} now: {error}"
                if asyncio.get_running_loop().time() > now + resizes.SEARCH_SECONDS:
                    return  # others were looked at before it, and are after it in the next round
                subject = known.subject
                if (host := await self._wanting(id, verdict.type)) is not None:
                    wake = partial(self._wake, id=id, subject=subject, type=verdict.type, host=host)
                    if coming := await self._store.transact(wake, frees=True):
                        known.refused += f"; it does when {coming}"
                    return  # each round looks whether that is there
            except (CannotResize, ApiError) as error:
                known.refused = f"it can't become a {verdict.type} now: {error}"
        known.again = now + AGAIN_SECONDS
        await self._tell(id, known, verdict.type or verdict.stopped, verdict.reason)

    async def _wanting(self, id: str, type: str) -> str | None:
        """As ``resizes.Growing.wanting``. Among many hosts that takes long: no transaction waits for it."""
        async with self._store.read() as reader:
            instance = await reader.get(Instance, id)
            growing = await resizes.growing(reader, instance, type) if instance is not None else None
        return None if growing is None else await growing.wanting()

    async def _wake(self, tx: Transaction, id: str, subject: Subject, type: str, host: str) -> str:
        """Let the host be woken that was found, "" for one that comes already. What is waited for, in words,
        "" if all is not as it was.
        """
        instance = await tx.get(Instance, id)
        if instance is None or instance.autosize is None:
            return ""
        if _subject(instance, instance.autosize) != subject:
            return ""
        if not host:
            return "the host that is being woken is there"
        woken = await growths.wake(tx, self.env, instance, type, host)
        return f"host {host} is woken" if woken else ""

    async def _tell(self, id: str, known: Watched, wanted: str, reason: str = "") -> None:
        """Once for each type that it could not have."""
        if known.told == wanted:
            return
        text = f"{id} stays a {known.subject.type}: {known.refused or reason}"

        async def work(tx: Transaction) -> None:
            await events.record(tx, self.env, "InstanceNotAutosized", text, Severity.warning, instance=id)

        await self._store.transact(work)
        known.told = wanted

    async def _change(self, tx: Transaction, id: str, known: Watched, verdict: Verdict) -> None:
        """Begin it, if all is as it was. Raises CannotResize, NoCapacity, ApiError."""
        subject, instance = known.subject, await tx.get(Instance, id)
        if instance is None or instance.autosize is None or _subject(instance, instance.autosize) != subject:
            return
        if await self._unrest(tx):
            return  # the next round says so
        size = self._size(id, subject)
        await resizes.require_interfaces(tx, instance, verdict.type)
        changed = await resizes.begin(tx, self.env, instance, verdict.type, size, moves=True)
        known.migration = changed.migration
        await tx.put(replace(changed, autosize=replace(subject.policy, changed=self.env.now())))
        text = f"{id} becomes a {verdict.type} instead of a {instance.type}: {verdict.reason}"
        await events.record(tx, self.env, "InstanceAutosized", text, host=subject.host, instance=id)


def _subject(instance: Instance, policy: Autosize) -> Subject:
    return Subject(instance.type, instance.generation, instance.host or "", policy, _waits(instance))


def _waits(instance: Instance) -> str:
    if instance.state is not InstanceState.running:
        return f"it is {instance.state}"
    if instance.migration:
        return "it is being migrated"
    if instance.growth is not None:
        return f"it waits for a host to become a {instance.growth.type}"
    if instance.resize is not None and not instance.resize.message:
        return "it is being resized"
    return ""


def _level(load: MachineLoad, type: str) -> Level:
    has = machine_size(type)
    cpu = min(1.0, (load.cpus + load.waiting) / has.vcpus)
    return Level(cpu, load.used_bytes / has.memory_bytes if load.used_bytes >= 0 else None)
