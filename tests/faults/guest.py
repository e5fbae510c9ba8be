"""Guests' reads and writes without guests: QEMU's tools, and a QEMU whose monitor says what to write."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import time
from pathlib import Path

from gureum.san.base import FileDisk, Layer

MIB = 1 << 20
WAIT_SECONDS = 60.0


def node(disk: FileDisk) -> dict[str, object]:
    """What a hypervisor does with a FileDisk: each layer named, none found by its header."""
    found: dict[str, object] | None = None
    for layer in reversed(disk.layers):
        below, found = found, {"driver": layer.format, "file": {"driver": "file", "filename": layer.path}}
        if layer.format == "qcow2":
            found["backing"] = below
    assert found is not None
    return found


def run_tool(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_SECONDS)
    if done.returncode or "failed" in done.stdout:
        raise AssertionError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout


class Machine:
    """A QEMU with a volume, whose guest's reads and writes are made by its monitor. It outlives the pool."""

    def __init__(self, folder: Path, disk: FileDisk) -> None:
        self.qmp, self.said = folder / "qmp", folder / "said"
        with open(self.said, "ab") as said:
            self.process = subprocess.Popen(
                (
                    *("stdbuf", "-oL", "qemu-system-x86_64"),
                    *("-M", "q35,accel=tcg", "-nodefaults", "-S", "-display", "none"),
                    *("-blockdev", json.dumps({"node-name": "n0", **node(disk)})),
                    *("-device", "virtio-blk-pci,id=disk,drive=n0"),
                    *("-qmp", f"unix:{self.qmp},server=on,wait=off"),
                ),
                stdout=said,
            )
        end = time.monotonic() + WAIT_SECONDS
        while not self._listens():
            assert self.process.poll() is None, "QEMU ended"
            assert time.monotonic() < end, "QEMU does not start"
            time.sleep(0.01)

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as link:
            return link.connect_ex(str(self.qmp)) == 0

    def guest(self, command: str, **patterns: int) -> None:
        """``command`` is write or read."""
        for at, value in patterns.items():
            self._io(f"{command} -P {value} {int(at[1:]) * MIB} {MIB}")
        self._io("flush")
        said = self.said.read_text()
        assert said.count(f"{MIB}/{MIB} bytes") == len(patterns), said
        assert "failed" not in said, said
        os.truncate(self.said, 0)

    def _io(self, command: str) -> None:
        line = f'qemu-io -d /machine/peripheral/disk/virtio-backend "{command}"'
        order = {"execute": "human-monitor-command", "arguments": {"command-line": line}}
        assert Monitor(str(self.qmp)).talk((order,)) == ""

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Monitor:
    """LiveDisk, by QMP to a Machine."""

    def __init__(self, socket_path: str) -> None:
        self.socket_path = socket_path

    async def active_layer(self) -> str:
        file = (await self._active())["file"]
        return (
            json.loads(file.removeprefix("json:"))["file"]["filename"] if file.startswith("json:") else file
        )

    async def switch_layer(self, layer: Layer) -> None:
        active = (await self._active())["node-name"]
        overlay = f"n{int(active[1:]) + 1}"
        file = {"driver": "file", "filename": layer.path}
        added = {"driver": layer.format, "node-name": overlay, "file": file, "backing": None}
        await self._execute(
            {"execute": "blockdev-add", "arguments": added},
            {"execute": "blockdev-snapshot", "arguments": {"node": active, "overlay": overlay}},
        )

    async def resize(self, size_bytes: int) -> None:
        active = (await self._active())["node-name"]
        await self._execute(
            {"execute": "block_resize", "arguments": {"node-name": active, "size": size_bytes}}
        )

    async def _active(self):
        """The only qcow2 node that may be written."""
        nodes = await self._execute({"execute": "query-named-block-nodes", "arguments": {"flat": True}})
        (active,) = (found for found in nodes if found["drv"] == "qcow2" and not found["ro"])
        return active

    async def _execute(self, *commands: object):
        return await asyncio.to_thread(self.talk, commands)

    def talk(self, commands: tuple[object, ...]):
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(WAIT_SECONDS)
            link.connect(self.socket_path)
            lines = link.makefile("rw")
            lines.readline()
            for command in ({"execute": "qmp_capabilities"}, *commands):
                lines.write(json.dumps(command) + "\n")
                lines.flush()
                while "event" in (answer := json.loads(lines.readline())):
                    pass
                assert "return" in answer, answer
            return answer["return"]
