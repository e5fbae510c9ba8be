"""The operator's command for hosts that are upgraded: after a while the host is off and on again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

HOOK_SECONDS = 3.0


class HookError:
    """``text``: why the command fails, "" if it works."""

    text = ""


class SimHook:
    def __init__(self, error: HookError, power_cycle: Callable[[str], None]) -> None:
        self._error = error
        self._power_cycle = power_cycle

    def missing(self) -> str:
        return ""

    async def run(self, host: str, address: str) -> str:
        await asyncio.sleep(HOOK_SECONDS)
        if not self._error.text:
            self._power_cycle(host)
        return self._error.text
