"""Guests that are told to use what they got: by the QEMU guest agent, where they run one.

Linux lists a CPU that was plugged, and mostly leaves it at that; some kernels do so with memory, too. Guests
that bring a rule of their own for it, or do it by themselves, have nothing to be told.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from gureum.env import Env
from gureum.errors import HypervisorError
from gureum.hypervisors.qemu.background import Background
from gureum.hypervisors.qemu.guest_agent import Conversation, conversation

log = logging.getLogger(__name__)

PAUSES = (1.0, 4.0, 15.0)
"""In seconds: until the guest has seen what came, if it is fast; and again, if it is not."""
ANSWER_SECONDS = 10.0
KINDS = (
    ("guest-get-vcpus", "guest-set-vcpus", "vcpus", "logical-id"),
    ("guest-get-memory-blocks", "guest-set-memory-blocks", "mem-blks", "phys-index"),
)
"""Command that lists, command that sets, its argument, and how each thing is called."""


class Onliner:
    """For one guest. ``listens()``: whether it has the agent's port open."""

    def __init__(self, env: Env, id: str, path: Path, listens: Callable[[], Awaitable[bool]]) -> None:
        self._env = env
        self._id = id
        self._path = path
        self._listens = listens
        self._news = self._busy = False
        self._background = Background(id)

    def soon(self) -> None:
        """The machine has more than before."""
        self._news = True
        if not self._busy:
            self._busy = True
            self._background.start(self._work())

    async def _work(self) -> None:
        try:
            while self._news:
                self._news = False
                for pause in PAUSES:
                    await asyncio.sleep(pause)
                    await self._tell()
        finally:
            self._busy = False

    async def _tell(self) -> None:
        try:
            if not await self._listens():
                return
            async with (
                conversation(self._env, self._id, self._path) as agent,
                asyncio.timeout(ANSWER_SECONDS),
            ):
                for kind in KINDS:
                    await _bring_online(agent, *kind)
        except HypervisorError as error:
            log.info("%s: its guest is not told to use what it got: %s", self._id, error)

    def close(self) -> None:
        self._background.cancel()


async def _bring_online(agent: Conversation, get: str, set: str, argument: str, name: str) -> None:
    answer = await agent.ask(get)
    found: list[dict[str, Any]] = (
        [each for each in answer if isinstance(each, dict)] if isinstance(answer, list) else []
    )
    offline = [
        each[name] for each in found if each.get("online") is False and isinstance(each.get(name), int)
    ]
    if offline:
        await agent.ask(set, {argument: [{name: number, "online": True} for number in offline]})
