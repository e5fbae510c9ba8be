"""The peer of a migration: two QEMUs by hand on this machine, with one disk in the same storage cluster.

As somebody would do it: start the other one, let the guest go there, end the first.

The stream is plain TCP to 127.0.0.1, without TLS. The guest is not told to wait for anybody: it goes on as
soon as the other QEMU has it.
"""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from gureum.bench import rawqemu
from gureum.bench.disk_io import rbd_file
from gureum.bench.servers import BenchError, free_port
from gureum.images.manifest import ImageManifest
from gureum.san.settings import SanSettings

COMMAND_SECONDS = 60.0
LOOK_SECONDS = 0.005
UNBOUNDED = 1 << 40
IMAGE = "bench-by-hand"

Answer = Mapping[str, object]


class Moved(NamedTuple):
    """``seconds``: from before the other QEMU's start to the first one's end. The rest is QEMU's count;
    ``copy_seconds``: from ``migrate`` until all was sent.
    """

    seconds: float
    copy_seconds: float
    downtime_ms: float
    copied_bytes: int


class Qemu:
    """One process, and its monitor."""

    def __init__(self, command: Sequence[str], directory: Path, name: str) -> None:
        self._path = directory / f"{name}.qmp"
        self._path.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [*command, "-qmp", f"unix:{self._path},server=on,wait=off"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            self._socket = self._connect()
            self._lines = self._socket.makefile("rb")
            self._lines.readline()
            self.execute("qmp_capabilities")
        except BaseException:
            self.kill()
            raise

    def _connect(self) -> socket.socket:
        deadline = time.monotonic() + COMMAND_SECONDS
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.connect(str(self._path))
            except OSError:
                connection.close()
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise BenchError("QEMU by hand did not start") from None
                time.sleep(LOOK_SECONDS)
            else:
                connection.settimeout(COMMAND_SECONDS)
                return connection

    def execute(self, command: str, **arguments: object) -> Answer:
        message = {
            "execute": command,
            "arguments": {key.replace("_", "-"): v for key, v in arguments.items()},
        }
        self._socket.sendall(json.dumps(message).encode() + b"\n")
        while line := self._lines.readline():
            answer = json.loads(line)
            if "error" in answer:
                raise BenchError(f"QEMU by hand: {command}: {answer['error']['desc']}")
            if "return" in answer:
                found: Answer = answer["return"]
                return found
        raise BenchError(f"QEMU by hand ended at {command}")

    def quit(self) -> None:
        self.execute("quit")
        self.process.wait(COMMAND_SECONDS)
        self._close()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._close()

    def _close(self) -> None:
        for each in ("_lines", "_socket"):
            if hasattr(self, each):
                getattr(self, each).close()


class RawPair:
    """A machine by hand that goes from one QEMU to the next. ``ours``: as in ``rawqemu.same_hardware``."""

    def __init__(
        self, directory: Path, ours: Sequence[str], manifest: ImageManifest, settings: SanSettings
    ) -> None:
        self._directory = directory
        self._ours = ours
        self._manifest = manifest
        self._disk = rbd_file(settings, IMAGE)
        self._count = 0
        directory.mkdir()
        self._fill()
        self._qemu = self._start()

    def _fill(self) -> None:
        """With what is in the image: that the destination opens a clone of it is ours alone."""
        command = ["qemu-img", "convert", "-f", self._manifest.disk_format, "-O", "raw"]
        subprocess.run([*command, self._manifest.disk, self._disk], check=True, timeout=COMMAND_SECONDS)

    @property
    def console(self) -> Path:
        return self._directory / f"console-{self._count}"

    def _start(self, *options: str) -> Qemu:
        self._count += 1
        command = rawqemu.same_hardware(
            self._ours, self._manifest, f"format=raw,cache=none,file={self._disk}", self.console
        )
        return Qemu([*command, *options], self._directory, str(self._count))

    def move(self) -> Moved:
        address = f"tcp:127.0.0.1:{free_port()}"
        began = time.monotonic()
        target = self._start("-incoming", address)
        try:
            self._qemu.execute("migrate-set-parameters", max_bandwidth=UNBOUNDED)
            self._qemu.execute("migrate", uri=address)
            found = self._ended()
            self._qemu.quit()
        except BaseException:
            target.kill()
            raise
        seconds = time.monotonic() - began
        self._qemu = target
        ram = found["ram"]
        assert isinstance(ram, Mapping)
        copying = float(str(found["total-time"])) / 1000
        return Moved(seconds, copying, float(str(found["downtime"])), int(ram["transferred"]))

    def _ended(self) -> Answer:
        deadline = time.monotonic() + COMMAND_SECONDS
        while time.monotonic() < deadline:
            found = self._qemu.execute("query-migrate")
            if found.get("status") == "completed" and "downtime" in found:
                return found
            if found.get("status") == "failed":
                break
            time.sleep(LOOK_SECONDS)
        raise BenchError("QEMU by hand did not migrate")

    def end(self) -> None:
        """The image goes with the cluster, which is there for the measurement alone."""
        self._qemu.kill()
