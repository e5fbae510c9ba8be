"""A storage cluster for the tests of the pool in it."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import struct
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from gureum.env import Env
from gureum.errors import PoolError
from gureum.san.base import Layer, RbdDisk
from gureum.san.ceph import client as workers
from gureum.san.ceph.audit import Expected, Finding, compare, look, repair
from gureum.san.ceph.client import Client
from gureum.san.ceph.commands import PYTHON
from gureum.san.ceph.pool import RbdPool
from gureum.san.ceph.process import Worker
from gureum.san.settings import SanSettings

TIDY_SECONDS = 120.0
PROMPT = "qemu-io> "
OBJECT_MAP_INVALID = 1
"""RBD_FLAG_OBJECT_MAP_INVALID."""
EXECUTE = """
import rados, sys
conf, keyring, pool, object, method, data = sys.argv[1:]
with rados.Rados(conffile=conf, rados_id="admin", conf={"keyring": keyring}) as cluster:
    cluster.open_ioctx(pool).execute(object, "rbd", method, bytes.fromhex(data))
"""
BEGIN = """
import json
from rbdworker import locks
from rbdworker.session import Session
settings, *arguments = sys.argv[1:]
session = Session(**{name: value for name, value in json.loads(settings).items() if name != "nice"})
"""
NOTHING = Expected(volumes={}, snapshots={}, images=frozenset(), made=frozenset())


class Cluster:
    """``admin``: a keyring that has client.admin. Each has a cloud of its own in the one pool."""

    def __init__(self, settings: SanSettings, admin: Path) -> None:
        self.settings = settings
        self.admin = admin
        self.cloud = f"test{random.getrandbits(32):08x}"
        self._others = {*self.names(), *self.trash()}
        """Images that were there before: tests that failed leave some, whose clients are not quite dead."""

    def pool(self, host: str = "h1") -> RbdPool:
        return RbdPool(Env(), self.settings, self.cloud, host)

    def client(self, host: str = "h1") -> Client:
        return Client(Worker(workers.command(self.settings, self.cloud, host)))

    def run(self, *command: str) -> str:
        """`ceph` or `rbd`, as the administrator."""
        name, *arguments = command
        common = ("-c", str(self.settings.conf), "-n", "client.admin", "--keyring", str(self.admin))
        done = subprocess.run(
            (name, *common, *arguments), capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout

    def shut_out(self, address: str) -> None:
        """A client."""
        self.run("ceph", "osd", "blocklist", "add", address)

    def names(self) -> list[str]:
        return self.run("rbd", "ls", self.settings.pool).split()

    def trash(self) -> list[str]:
        listed = self.run("rbd", "trash", "ls", self.settings.pool).splitlines()
        return [line.split()[1] for line in listed]

    def move_halfway(self, name: str, listed: bool = False) -> None:
        """To the trash, as one who dies before librbd's last step; before the last but one, if it is
        ``listed`` still.
        """
        self.run("rbd", "trash", "mv", f"{self.settings.pool}/{name}")
        found = self.run("rbd", "trash", "ls", self.settings.pool).splitlines()
        id = next(line.split()[0] for line in found if name in line)
        self._execute("rbd_trash", "trash_state_set", _string(id) + bytes([1, 0]))
        if listed:
            self._execute("rbd_directory", "dir_add_image", _string(name) + _string(id))

    def disown(self, parent: str, snapshot: str, child: str) -> None:
        """Take the child off its parent's list, as a flatten does before its last step."""
        shown = self.run("rbd", "snap", "ls", "--format", "json", f"{self.settings.pool}/{parent}")
        number = next(each["id"] for each in json.loads(shown) if each["name"] == snapshot)
        pools = json.loads(self.run("ceph", "osd", "pool", "ls", "detail", "--format", "json"))
        pool = next(each["pool_id"] for each in pools if each["pool_name"] == self.settings.pool)
        id = self._shown(child)["id"].encode()
        body = struct.pack("<qI", pool, len(id)) + id + struct.pack("<I", 0)
        change = struct.pack("<QBBI", number, 2, 1, len(body)) + body
        self._execute(f"rbd_header.{self._shown(parent)['id']}", "child_detach", change)

    def map_all(self, name: str, objects: int) -> None:
        """Have the image's object map tell that they exist, as one who dies before they are written."""
        change = struct.pack("<QQBB", 0, objects, 1, 0)
        self._execute(f"rbd_object_map.{self._shown(name)['id']}", "object_map_update", change)

    def distrust_map(self, name: str) -> None:
        """Have nobody believe the image's object map, as who begins to flatten it."""
        flags = struct.pack("<QQ", OBJECT_MAP_INVALID, OBJECT_MAP_INVALID)
        self._execute(f"rbd_header.{self._shown(name)['id']}", "set_flags", flags)

    def flags(self, name: str) -> list[str]:
        """What is wrong with the image."""
        found: list[str] = self._shown(name)["flags"]
        return found

    def size(self, name: str) -> int:
        return int(self._shown(name)["size"])

    def _shown(self, name: str) -> dict[str, Any]:
        shown: dict[str, Any] = json.loads(
            self.run("rbd", "info", "--format", "json", f"{self.settings.pool}/{name}")
        )
        return shown

    def _execute(self, object: str, method: str, data: bytes) -> None:
        """A call of cls_rbd, as the administrator."""
        arguments = (str(self.settings.conf), str(self.admin), self.settings.pool, object, method, data.hex())
        subprocess.run((PYTHON, "-c", EXECUTE, *arguments), check=True, timeout=60)

    def as_worker(self, host: str, program: str, *arguments: str) -> str:
        """What a program says that is run with what a worker of this host has, as ``session``."""
        *start, text, settings = workers.command(self.settings, self.cloud, host)
        begin = text.replace("from rbdworker.program import main; main()", BEGIN)
        command = (*start, begin + program, settings, *arguments)
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def own(self, lines: Iterable[str]) -> list[str]:
        """Those lines, or names, that are about nothing that was there before."""
        return [line for line in lines if self._others.isdisjoint(line.replace(",", " ").split())]


def _string(text: str) -> bytes:
    return len(text).to_bytes(4, "little") + text.encode()


async def left(client: Client, cluster: Cluster) -> list[Finding]:
    findings = compare(await look(client), NOTHING, cluster.cloud)
    own = set(cluster.own(finding.line for finding in findings))
    return [finding for finding in findings if finding.line in own]


async def tidied(cluster: Cluster, pool: RbdPool) -> None:
    """Remove all that the test has left, and require that nothing else is there."""
    client = cluster.client()
    try:
        async with asyncio.timeout(TIDY_SECONDS):
            while findings := await left(client, cluster):
                for finding in findings:
                    try:
                        await repair(client, finding)
                    except PoolError:
                        await asyncio.sleep(0.5)
                await pool.check(repair=True)
                await asyncio.sleep(0.3)
    except TimeoutError:
        raise AssertionError(f"left in the pool: {[finding.line for finding in findings]}") from None
    finally:
        await client.close()


def workers_of(cluster: Cluster) -> list[int]:
    """The processes that work for this test's cloud."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                command = (entry / "cmdline").read_bytes()
                if b"rbdworker" in command and cluster.cloud.encode() in command:
                    found.append(int(entry.name))
    return found


def kill_workers(cluster: Cluster) -> int:
    pids = workers_of(cluster)
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(pids)


class Machine:
    """QEMU with a volume open, and `qemu-io` in the guest's place. It holds RBD's own lock."""

    def __init__(self, disk: RbdDisk) -> None:
        name = f"rbd:{disk.pool}/{disk.image}:id={disk.user}:conf={disk.conf}:keyring={disk.keyring}"
        self.process = subprocess.Popen(
            ("qemu-io", "-n", "-f", "raw", name),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._ask("")

    def _ask(self, command: str) -> str:
        """What it says, up to its next prompt."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if command:
            self.process.stdin.write(command + "\n")
            self.process.stdin.flush()
        said = ""
        while not said.endswith(PROMPT):
            character = self.process.stdout.read(1)
            assert character, f"qemu-io ended: {said}"
            said += character
        return said.removesuffix(PROMPT).strip()

    def write(self, pattern: int, offset: int, length: int = 4096) -> None:
        """Done when the cluster has acknowledged it."""
        assert "wrote" in (said := self._ask(f"write -P {pattern} {offset} {length}")), said

    def read(self, pattern: int, offset: int, length: int = 4096) -> None:
        assert "failed" not in (said := self._ask(f"read -P {pattern} {offset} {length}")), said

    def resize(self, size_bytes: int) -> str:
        """As QEMU's block_resize; the length that it has then."""
        assert self._ask(f"truncate {size_bytes}") == ""
        return self._ask("length")

    def close(self) -> None:
        """As a machine that is stopped."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self._ended()

    def kill(self) -> None:
        self.process.kill()
        self._ended()

    def _ended(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.wait(30)
        self.process.stdin.close()
        self.process.stdout.close()


class Live:
    """LiveDisk of a machine whose guest can, or cannot, be asked to freeze."""

    def __init__(self, freezes: bool = False, machine: Machine | None = None) -> None:
        self.freezes = freezes
        self.machine = machine
        self.log: list[str] = []

    async def active_layer(self) -> str:
        raise AssertionError("an RBD image has no layers")

    async def switch_layer(self, layer: Layer) -> None:
        raise AssertionError("an RBD image has no layers")

    async def resize(self, size_bytes: int) -> None:
        assert self.machine is not None
        self.log.append(self.machine.resize(size_bytes))

    async def freeze(self) -> bool:
        self.log.append("freeze")
        return self.freezes

    async def thaw(self) -> None:
        self.log.append("thaw")
