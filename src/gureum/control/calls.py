"""The hosts that are connected: direct calls to them, and waiting for what they say."""

from __future__ import annotations

import asyncio
from typing import Any

from gureum.control.observed import Observed
from gureum.control.session import CALL_SECONDS_MAX, Session
from gureum.errors import TransportError

EFFECT_SECONDS_MAX = 10.0


class Calls:
    """``sessions``: by host."""

    def __init__(self, observed: Observed) -> None:
        self.sessions: dict[str, Session] = {}
        self._observed = observed
        self._connected = asyncio.Event()
        """Wakes those who wait for a host, whenever one connects."""
        self._heard = asyncio.Event()
        """Wakes those who wait for what a report says, whenever one comes."""

    def connected(self) -> None:
        """There is a new session."""
        self._connected.set()
        self._connected.clear()

    def heard(self) -> None:
        """There was a report."""
        self._heard.set()
        self._heard.clear()

    async def in_effect(self, host: str, revision: int) -> None:
        """Wait until what the host's network is to be at this revision is so. Raises TransportError."""
        try:
            async with asyncio.timeout(EFFECT_SECONDS_MAX):
                while self._observed.network_revision(host) < revision:
                    await self._heard.wait()
        except TimeoutError as error:
            raise TransportError(f"host {host} did not say that its network is as it should be") from error

    async def call(self, host: str, method: str, **values: Any) -> bytes:
        """Ask the host's agent, when it is connected; ``values`` as in Call. Raises TransportError."""
        try:
            async with asyncio.timeout(CALL_SECONDS_MAX):
                while host not in self.sessions:
                    await self._connected.wait()
        except TimeoutError as error:
            raise TransportError(f"host {host} is not connected") from error
        return await self.sessions[host].call(method, **values)

    def problems(self, host: str) -> tuple[str, ...]:
        """What is wrong with a host that is connected, for people."""
        session, view = self.sessions.get(host), self._observed.hosts.get(host)
        if session is None:
            return ()
        own = (session.problem,) if session.problem else ()
        if view is None:
            return own
        warden = (view.warden.message,) if view.warden is not None and view.warden.message else ()
        return (*own, *warden, *view.problems)
