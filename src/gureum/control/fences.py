"""How a fence begins."""

from __future__ import annotations

from msgspec.structs import replace

from gureum.env import Env
from gureum.resources import Fence, Host, HostState


def begun(host: Host, env: Env, reason: str, by: str = "") -> Host:
    """The host, to be fenced. Numbers grow also where the store was put back, or the host removed."""
    now = env.now()
    number = max(host.lifted + 1, int(now * 1000))
    fence = Fence(number=number, reason=reason, began=now, by=by, since=now)
    return replace(host, state=HostState.fencing, fence=fence, watcher="")
