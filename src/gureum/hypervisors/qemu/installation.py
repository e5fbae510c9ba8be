"""The installed QEMU: its version and its machine types, asked once and remembered."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from pathlib import Path

import msgspec

from gureum.errors import HypervisorError
from gureum.files import write_atomically

log = logging.getLogger(__name__)

BINARY = "qemu-system-x86_64"
ASK_SECONDS = 20.0


class Installation(msgspec.Struct, frozen=True, kw_only=True):
    """``stamp`` tells whether the binary is still the same. ``aliases`` maps "q35" to "pc-q35-7.2"."""

    binary: str
    stamp: str
    version: str
    aliases: dict[str, str]
    types: tuple[str, ...]

    def resolve(self, machine: str, before: str = "") -> str:
        """The versioned type for ``machine``; ``before``, what the machine was last, stays if there still is
        one.
        """
        resolved = self.aliases.get(machine, machine)
        if before in self.types and _family(before) == _family(resolved):
            return before
        if resolved not in self.types:
            raise HypervisorError(f"this QEMU ({self.version}) has no machine type {machine}")
        return resolved


def _family(machine_type: str) -> str:
    return machine_type.rpartition("-")[0] or machine_type


def find_binary() -> str:
    binary = shutil.which(BINARY)
    if binary is None:
        raise HypervisorError(f"{BINARY} is not installed (Debian package qemu-system-x86)")
    return str(Path(binary).resolve())


def stamp(binary: str) -> str:
    status = os.stat(binary)
    return f"{binary}:{status.st_mtime_ns}:{status.st_size}"


async def inspect(cache: Path) -> Installation:
    """The installed QEMU, from the file ``cache`` if that is about the same binary."""
    binary = find_binary()
    try:
        known = msgspec.json.decode(cache.read_bytes(), type=Installation)
        if known.stamp == stamp(binary):
            return known
    except (OSError, msgspec.MsgspecError):
        log.debug("no usable %s", cache)
    version, machines = await asyncio.gather(_ask(binary, "--version"), _ask(binary, "-machine", "help"))
    aliases, types = parse_machines(machines)
    found = Installation(
        binary=binary,
        stamp=stamp(binary),
        version=version.splitlines()[0].removeprefix("QEMU emulator version ") if version else "",
        aliases=aliases,
        types=types,
    )
    remember(cache, found)
    return found


def remember(cache: Path, found: msgspec.Struct) -> None:
    """Keep what can be found out again: a full disk is no reason not to go on."""
    try:
        write_atomically(cache, msgspec.json.encode(found), durable=False)
    except OSError as error:
        log.warning("%s cannot be written: %s", cache, error)


def parse_machines(text: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """Aliases and names from ``-machine help``."""
    aliases: dict[str, str] = {}
    types: list[str] = []
    for line in text.splitlines()[1:]:
        name, _, description = line.partition(" ")
        _, alias, target = description.partition("(alias of ")
        if alias:
            aliases[name] = target.partition(")")[0]
        elif name:
            types.append(name)
    return aliases, tuple(types)


async def _ask(binary: str, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        binary,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(ASK_SECONDS):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise HypervisorError(f"{binary} {arguments[0]}: no answer in {ASK_SECONDS:g} s") from None
    if process.returncode != 0:
        raise HypervisorError(f"{binary} {arguments[0]} failed: {output.decode(errors='replace').strip()}")
    return output.decode(errors="replace")
