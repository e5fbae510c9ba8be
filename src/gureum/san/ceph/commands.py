"""Asks a cluster's monitors and manager, by Debian's python3-rados in a process of its own.

A thread that waits for a cluster that does not answer cannot be interrupted; a process can. And the module is
of the system's Python, which need not be ours.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from gureum.errors import PoolError, PoolUnavailable
from gureum.san.settings import SanSettings

PYTHON = "/usr/bin/python3"
"""The system's: it has the modules of the system's Ceph."""
TIMEOUT_S = 10.0
MARGIN_S = 3.0

# What every program begins with: `asked`, `cluster`, and a reason on stderr where there is none.
CONNECT = """
import json, os, sys
asked = json.load(sys.stdin)
try:
    import rados, rbd
except ImportError as error:
    sys.exit(f"missing {error}")
timeout = asked["timeout"]  # whole seconds: Ceph takes no others here
try:
    cluster = rados.Rados(
        conffile=asked["conf"],
        rados_id=asked["user"],
        conf={"client_mount_timeout": str(timeout), "rados_mon_op_timeout": str(timeout),
              "rados_osd_op_timeout": str(timeout), "keyring": asked["keyring"], "log_to_stderr": "false"},
    )
except rados.Error as error:
    sys.exit(f"conf {error}")
try:
    cluster.connect(timeout=timeout)
except rados.Error as error:
    sys.exit(f"connect {type(error).__name__} {error}")
"""

# Writes [code, output, message] in the order of the commands; {"rbd init": POOL} prepares a pool.
ASK = """
answers = []
for command in asked["commands"]:
    try:
        if "rbd init" in command:
            with cluster.open_ioctx(command["rbd init"]) as pool:
                rbd.RBD().pool_init(pool, True)
            answers.append([0, "", ""])
            continue
        to_manager = command.pop("to manager", False)
        send = cluster.mgr_command if to_manager else cluster.mon_command
        code, output, message = send(json.dumps(command), b"", timeout=timeout)
        answers.append([code, output.decode(errors="replace"), message])
    except (rados.Error, rbd.Error) as error:
        answers.append([-(error.errno or 5), "", str(error)])
sys.stdout.write(json.dumps(answers))
"""

# To take leave of the cluster in order may take longer than all that was asked.
END = """
sys.stdout.flush()
os._exit(0)
"""


class ConfError(PoolError):
    """Nobody was asked: the configuration is wrong."""


@dataclass(frozen=True)
class Access:
    """Who asks which cluster."""

    conf: Path
    user: str
    keyring: Path

    @classmethod
    def of(cls, settings: SanSettings) -> Self:
        """Raises PoolError for settings that are not of a cluster."""
        if settings.conf is None or settings.keyring is None:
            raise PoolError("there is no storage cluster in these settings")
        return cls(settings.conf, settings.user, settings.keyring)


@dataclass(frozen=True)
class Answer:
    """``code``: 0, or a negative errno."""

    code: int
    output: str
    message: str

    def document(self) -> Any:
        """The JSON that it is, None where nothing was to be said. Raises PoolError."""
        if self.code != 0:
            raise PoolError(self.message or os.strerror(-self.code))
        try:
            return json.loads(self.output) if self.output.strip() else None
        except ValueError as error:
            raise PoolError(f"the cluster's answer is no JSON: {error}") from error


def ask(access: Access, commands: Sequence[dict[str, Any]], timeout_s: float = TIMEOUT_S) -> list[Answer]:
    """Sends commands one after the other; ``to manager``: those of the manager. Blocks.

    Raises PoolUnavailable where no monitor answers in time, PoolError for what waiting does not help.
    """
    asked = {"commands": [{"format": "json", **command} for command in commands]}
    return [Answer(*answer) for answer in run(access, ASK, asked, timeout_s, len(commands))]


def run(access: Access, program: str, asked: dict[str, Any], timeout_s: float, steps: int = 1) -> Any:
    """Runs a program with rados and rbd, `cluster` and `asked`; returns the JSON that it prints. Blocks.

    ``timeout_s`` is for each of its steps. Raises as `ask` does.
    """
    question = {
        "conf": str(access.conf),
        "user": access.user,
        "keyring": str(access.keyring),
        "timeout": max(1, round(timeout_s)),
        **asked,
    }
    try:
        done = subprocess.run(
            [PYTHON, "-I", "-c", f"{CONNECT}{program}{END}"],
            input=json.dumps(question),
            capture_output=True,
            text=True,
            timeout=timeout_s * (1 + steps) + MARGIN_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise PoolUnavailable("the cluster does not answer") from None
    except FileNotFoundError:
        raise PoolError(f"{PYTHON} is missing") from None
    if done.returncode != 0:
        raise _failure(access, done.stderr.strip())
    return json.loads(done.stdout)


def _failure(access: Access, said: str) -> PoolError:
    last = said.splitlines()[-1] if said else "it said nothing"
    kind, _, why = last.partition(" ")
    if kind == "missing":
        return PoolError(f"{PYTHON} has {why}: install python3-rados and python3-rbd")
    if kind == "conf":
        return ConfError(f"Ceph does not understand {access.conf}: {why}. Its last line has to end, too")
    if kind == "connect" and why.startswith("TimedOut"):
        return PoolUnavailable("no monitor answers")
    if kind == "connect":
        return PoolError(why.partition(" ")[2])
    return PoolError(f"asking the cluster failed: {last}")
