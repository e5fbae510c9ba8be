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
KEY_SECONDS = 10.0
"""For so long a sign may say a key that is not known: who stands by says it every 3 s."""


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
    """Hears, for the manager that leads, what those say that stand by. ``machine``: this one. ``seen``: by
    machine, when one there was heard last, as Unix time.

    Who has a login to the database can write such a sign for any machine. So it is believed only what the
    record does not contradict, and what is not is deleted.
    """

    def __init__(self, env: Env, store: Store, signs: Signs, machine: str, seen: dict[str, float]) -> None:
        self._env = env
        self._store = store
        self._signs = signs
        self._machine = machine
        self._seen = seen
        self._refused: dict[str, str] = {}
        """By machine that is known, the key of another with which it was heard last."""

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
        async with self._store.read() as reader:
            known = {each.id: each for each in await reader.find(ManagerMachine)}
        right = [sign for sign in signs if self._right(sign, known.get(sign.machine))]
        self._seen.clear()
        self._seen.update((sign.machine, now - sign.age) for sign in right)
        # Among them those of a machine that has left, or was revoked, or joined anew since.
        for sign in signs:
            if sign not in right:
                await self._signs.forget(sign)
        new = [sign for sign in right if sign.key and not known[sign.machine].key]
        if news := [sign for sign in new if sign.age < KEY_SECONDS]:
            await self._store.transact(lambda tx: _note(tx, news))

    def _right(self, sign: Sign, machine: ManagerMachine | None) -> bool:
        if machine is None or machine.revoked or sign.machine == self._machine:
            return False
        if not machine.key or sign.key == machine.key:
            return True
        if self._refused.get(machine.id) != sign.key:
            self._refused[machine.id] = sign.key
            log.warning(
                "who says to be machine %s has the key %s, not that machine's: it is not believed",
                *(machine.id, sign.key or "of nobody"),
            )
        return False


async def _note(tx: Transaction, signs: list[Sign]) -> None:
    """Keys that were not known yet: agents have to be told before such a machine's manager leads."""
    taken = {each.key for each in await tx.find(ManagerMachine)}
    for sign in signs:
        machine = await tx.get(ManagerMachine, sign.machine)
        if machine is None or machine.revoked or machine.key or sign.key in taken:
            continue
        await tx.put(replace(machine, key=sign.key))
        taken.add(sign.key)
        log.info("managers of %s have the key %s", machine.id, sign.key)
