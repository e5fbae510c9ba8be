"""A second machine: here a network namespace, with nothing but a cable to the first."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from gureum.cli.children import child_environment
from gureum.cli.cloud import Cloud

from .host import command_lines

CUT = """table inet cut {
    chain in { type filter hook input priority -500; policy drop; }
    chain out { type filter hook output priority -500; policy drop; }
}"""


class Machine:
    """Commands are typed there. ``directory``: where it has its state directory, ``second``."""

    def __init__(self, directory: Path, namespace: str) -> None:
        self.cloud = Cloud(directory / "second")
        self.namespace = namespace

    def gureum(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        argv = ["ip", "netns", "exec", self.namespace, sys.executable, "-m", "gureum.cli", *arguments]
        return subprocess.run(
            [*argv, "--state-dir", str(self.cloud.state_dir)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env=child_environment(),
            stdin=subprocess.DEVNULL,
        )

    def join(self, url: str, token: str, name: str = "second") -> subprocess.CompletedProcess[str]:
        return self.gureum("host", "join", url, "--token", token, "--name", name, "-d", "--json")

    def kill(self) -> None:
        """All of it at once, guests included."""
        marks = [str(self.cloud.state_dir), *(f"guest={guest}" for guest in self.cloud.guests())]
        for pid, command in command_lines():
            if any(mark.encode() in command for mark in marks):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def pull(self) -> None:
        """The cable: nothing gets through any more, no farewell either."""
        nft = ["ip", "netns", "exec", self.namespace, "nft", "-f", "-"]
        subprocess.run(nft, input=CUT, text=True, check=True)

    def plug(self) -> None:
        nft = ["ip", "netns", "exec", self.namespace, "nft", "delete", "table", "inet", "cut"]
        subprocess.run(nft, check=False, capture_output=True)


@contextlib.contextmanager
def cabled(namespace: str, device: str, ours: str, theirs: str) -> Iterator[None]:
    """A machine that is reached by ``device``, with these addresses at the two ends of it."""

    def run(command: str) -> None:
        subprocess.run(command.split(), check=True)

    run(f"ip netns add {namespace}")
    try:
        run(f"ip link add {device} type veth peer name lan netns {namespace}")
        run(f"ip address add {ours}/24 dev {device}")
        run(f"ip link set {device} up")
        run(f"ip -n {namespace} link set lo up")
        run(f"ip -n {namespace} address add {theirs}/24 dev lan")
        run(f"ip -n {namespace} link set lan up")
        run(f"ip -n {namespace} route add default via {ours}")
        yield
    finally:
        # What a test that failed has left there.
        left = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=True)
        for pid in left.stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        run(f"ip netns delete {namespace}")
