"""The fence agent ``machine-host``: switches one of several hosts on the manager's own machine, as if it had
power of its own. Off is kill -9 of all in the host's network, and its supervisor starts nothing of it again.

    STATE/run/NAME.off    the process of this name is not to be started

It speaks the API of fence agents: lines ``key=value`` on standard input; ``nodename`` is the host's name.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from gureum.cli.cloud import Cloud
from gureum.cli.lost_hosts import kill_host, processes
from gureum.cli.output import CliError
from gureum.cli.processes import Identity, read_pid_file, send
from gureum.cli.supervisor import off_file

DONE, FAILED, IS_OFF = 0, 1, 2
SECONDS_MAX = 20.0
LOOK_SECONDS = 0.2


class MachineHost:
    """Raises CliError if there is no such host."""

    def __init__(self, cloud: Cloud, name: str) -> None:
        prefix, _, number = name.partition("-")
        if prefix != "host" or not number.isdecimal() or not int(number) < cloud.config().hosts > 1:
            raise CliError(f"host {name!r} is none of several on this machine")
        self._cloud = cloud
        self._name = name
        wanted = {f"agent-{int(number)}", f"warden-{int(number)}"}
        self._roles = [role for role in cloud.roles if role in wanted]
        self._files = [Path(off_file(str(cloud.state_dir), role)) for role in self._roles]

    def is_off(self) -> bool:
        return all(file.exists() for file in self._files) and not self._lives()

    def switch_off(self) -> bool:
        """Whether nothing of it runs."""
        for file in self._files:
            file.touch(0o600)
        until = time.monotonic() + SECONDS_MAX
        while self._lives():
            if time.monotonic() > until:
                return False
            for identity in self._own():
                send(identity, signal.SIGKILL)
            with suppress(FileNotFoundError):
                kill_host(self._cloud, self._name, signal.SIGKILL)
            time.sleep(LOOK_SECONDS)
        return True

    def switch_on(self) -> None:
        for file in self._files:
            file.unlink(missing_ok=True)

    def _lives(self) -> bool:
        try:
            return bool(self._own() or processes(self._cloud, self._name))
        except FileNotFoundError:  # it has no network, and never was on
            return False

    def _own(self) -> list[Identity]:
        """Its agent and its warden, also while they have not entered its network yet."""
        found = (read_pid_file(self._cloud.run_dir / f"{role}.pid") for role in self._roles)
        return [identity for identity in found if identity is not None]


def act(state_dir: Path, said: Mapping[str, str]) -> int:
    """The exit code."""
    host = MachineHost(Cloud(state_dir), said.get("nodename", ""))
    match said.get("action"):
        case "off":
            if not host.switch_off():
                raise CliError(f"processes of {said['nodename']} did not end in {SECONDS_MAX:g} s")
        case "on":
            host.switch_on()
        case "status" | "monitor":
            return IS_OFF if host.is_off() else DONE
        case action:
            raise CliError(f"{action!r} is none of: on, off, status, monitor")
    return DONE


def main() -> int:
    lines = (line.strip().partition("=") for line in sys.stdin)
    try:
        return act(Path(sys.argv[1]), {key: value for key, _, value in lines})
    except CliError as error:
        sys.stderr.write(f"{error.message}\n")
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
