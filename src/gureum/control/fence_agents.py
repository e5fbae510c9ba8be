"""Fence agents, which switch hosts on and off: executables that speak ClusterLabs' fence agent API.

What is to be done comes as lines ``key=value`` on standard input, so that no password is in a list of
processes. They end with 0 if it was done; of ``status``, with 0 if the host is on and 2 if it is off.
https://github.com/ClusterLabs/fence-agents/blob/main/doc/FenceAgentAPI.md
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from gureum.control.hooks import HOOKS, execute
from gureum.control.keys import KeyStore
from gureum.env import Env
from gureum.errors import ConfigError
from gureum.resources import HostPower

if TYPE_CHECKING:
    from gureum.services.operation import Keys

INSTALLED = Path("/usr/sbin")
"""Where Debian's package fence-agents has them, as fence_NAME."""
OWN = Path(HOOKS) / "power"
"""The operator's own, in the state directory."""
MACHINE_HOST = "machine-host"
"""The one for hosts that share one machine with their manager."""
NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
UNSAFE = re.compile(r"exec|debug.*|kubeconfig|(.*_)?(script|path|file|options|plugin|debug)|log_?file")
"""Options by which agents start other programs, or read and write files, on the manager's machine."""
SECONDS_MAX = 120.0
INPUT_BYTES_MAX = 32 * 1024
ON, OFF = 0, 2
END_WITH_PARENT = ("/usr/bin/setpriv", "--pdeathsig", "KILL")
"""What a manager that is killed began must not switch anything when the next one has decided otherwise."""
UNPRIVILEGED = ("--reuid", "nobody", "--regid", "nogroup", "--clear-groups", "--no-new-privs", "--reset-env")
"""Those of the distribution are told by the API what to do, and need nothing but the network."""
CALLS_MAX = 16
"""Agents at a time; others wait."""
TESTS_MAX, TEST_SECONDS = 4, 20.0
"""Of those that are asked for ``status``, for which somebody waits: others are refused."""


class Action(StrEnum):
    on = "on"
    off = "off"
    status = "status"


class Answer(NamedTuple):
    """``error``: why it could not be done, or told, "" if it could. ``on``: what ``status`` found."""

    error: str = ""
    on: bool = False


class Switch(Protocol):
    def refusal(self, agent: str, remote: bool) -> str:
        """Why this agent can't switch a host, "" if it can. ``remote``: one of another machine."""

    async def __call__(self, power: HostPower, action: Action) -> Answer:
        """Can be called again for the same: then it is so already."""


class NoSwitch:
    def refusal(self, agent: str, remote: bool) -> str:
        return "this manager switches no hosts"

    async def __call__(self, power: HostPower, action: Action) -> Answer:
        return Answer("this manager switches no hosts")


class FenceAgents:
    def __init__(self, state_dir: Path, keys: KeyStore, installed: Path = INSTALLED) -> None:
        self._state_dir = state_dir
        self._keys = keys
        self._installed = installed
        self._calls, self._tests = asyncio.Semaphore(CALLS_MAX), asyncio.Semaphore(TESTS_MAX)

    def refusal(self, agent: str, remote: bool) -> str:
        if remote and agent == MACHINE_HOST:
            return f"{MACHINE_HOST} is for hosts of the manager's own machine"
        if not remote and agent != MACHINE_HOST:
            return (
                "this host is on the manager's own machine, which would switch itself off; for one of "
                f"several hosts there is {MACHINE_HOST}"
            )
        return "" if self._command(agent) else self._absent(agent)

    def _absent(self, agent: str) -> str:
        return (
            f"there is no fence agent {agent!r}: neither {self._state_dir / OWN / agent} nor "
            f"{self._installed / agent} is an executable file (apt install fence-agents)"
        )

    def _command(self, agent: str) -> list[str]:
        """With how it is started; none if there is no such agent."""
        if agent == MACHINE_HOST:
            module = (sys.executable, "-P", "-m", "gureum.cli.machine_power", str(self._state_dir))
            return [*END_WITH_PARENT, "--", *module]
        if not NAME.fullmatch(agent):
            return []
        if os.access(own := self._state_dir / OWN / agent, os.X_OK):
            return [*END_WITH_PARENT, "--", str(own)]
        installed = self._installed / agent
        if agent.startswith("fence_") and os.access(installed, os.X_OK):
            return [*END_WITH_PARENT, *UNPRIVILEGED, "--", str(installed)]
        return []

    async def __call__(self, power: HostPower, action: Action) -> Answer:
        command = self._command(power.agent)
        if not command:
            return Answer(self._absent(power.agent))
        try:
            hidden = opened(self._keys, power)
        except ConfigError as error:
            return Answer(str(error))
        if name := next(filter(unsafe, (*power.options, *hidden)), ""):
            return Answer(f"{power.agent} is not told {name}, by which it could start other programs")
        said = {"action": str(action), "nodename": power.id, **power.options, **hidden}
        text = "".join(f"{key}={value}\n" for key, value in said.items())
        # What is for our Python is not for theirs.
        theirs = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        environment = None if power.agent == MACHINE_HOST else theirs
        test = action is Action.status
        if test and self._tests.locked():
            return Answer(f"{TESTS_MAX} other agents are being asked right now: try again")
        async with self._tests if test else self._calls:
            ended = await execute(
                command,
                TEST_SECONDS if test else SECONDS_MAX,
                text.encode(),
                environment,
                secrets=hidden.values(),
            )
        if ended.code == ON or (action is Action.status and ended.code == OFF):
            return Answer(on=ended.code == ON and action is not Action.off)
        return Answer(f"{power.agent}: {ended.error}")


def unsafe(option: str) -> bool:
    """Whether an agent that is told this could do more on the manager's machine than to switch a host. Agents
    take names with "-" as with "_".
    """
    return UNSAFE.fullmatch(option.lower().replace("-", "_")) is not None


def sealed(keys: Keys, env: Env, host: str, secrets: Mapping[str, str]) -> bytes:
    """As a host's power has them."""
    return keys.seal(env, _owner(host), msgspec.json.encode(secrets)) if secrets else b""


def opened(keys: KeyStore, power: HostPower) -> dict[str, str]:
    """Raises ConfigError."""
    if not power.sealed:
        return {}
    return msgspec.json.decode(keys.opened(_owner(power.id), power.sealed), type=dict[str, str])


def _owner(host: str) -> str:
    return f"the power of {host}"
