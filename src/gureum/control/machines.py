"""Machines with managers: which are accepted, and of which of them something was heard."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from msgspec.structs import replace

from gureum.env import Env
from gureum.errors import StoreError
from gureum.resources import ManagerMachine
from gureum.store.base import Store, Transaction

if TYPE_CHECKING:
    from gureum.store.postgres.signs import Sign, Signs

log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0


def addresses(machines: Iterable[ManagerMachine]) -> tuple[str, ...]:
    """ADDRESS:PORT of each, where agents may find the one that leads."""
    return tuple(machine.agents for machine in machines if not machine.revoked)


def accepted(machines: Iterable[ManagerMachine]) -> tuple[str, ...]:
    """The fingerprints of the keys of managers to believe; none: of all that have the authority's signature.

    As long as one has not said its key (its gureum is older) it would be shut out, so none is; unless one was
    revoked. With a single machine there is nobody to tell it from.
    """
    machines = list(machines)
    keys = [machine.key for machine in machines if not machine.revoked]
    if len(machines) == len(keys) and (len(keys) == 1 or not all(keys)):
        return ()
    return tuple(filter(None, keys))


class Standing:
    """Hears, for the manager that leads, what those say that stand by. ``seen``: by machine, when one there
    was heard last, as Unix time.
    """

    def __init__(self, env: Env, store: Store, signs: Signs, seen: dict[str, float]) -> None:
        self._env = env
        self._store = store
        self._signs = signs
        self._seen = seen

    async def run(self) -> None:
        """Without end."""
        try:
            while True:
                try:
                    await self.look()
                except StoreError as error:
                    log.warning("managers that stand by: %s", error)
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            await self._signs.close()

    async def look(self) -> None:
        """Raises StoreError."""
        signs = await self._signs.heard()
        now = self._env.now()
        self._seen.clear()
        self._seen.update((sign.machine, now - sign.age) for sign in signs)
        async with self._store.read() as reader:
            keys = {each.id: each.key for each in await reader.find(ManagerMachine) if not each.revoked}
        if news := [sign for sign in signs if sign.key and keys.get(sign.machine, sign.key) != sign.key]:
            await self._store.transact(lambda tx: _note(tx, news))


async def _note(tx: Transaction, signs: list[Sign]) -> None:
    """Keys that were not known yet: agents have to be told before such a machine's manager leads."""
    for sign in signs:
        machine = await tx.get(ManagerMachine, sign.machine)
        if machine is not None and not machine.revoked:
            await tx.put(replace(machine, key=sign.key))
            log.info("managers of %s have the key %s", machine.id, sign.key)
